"""Answers that Headway makes itself: errors and small JSON documents."""

import math
from collections.abc import Mapping

import msgspec
from aiohttp import web

from proxy.errors import HeadwayError


def error_response(error: HeadwayError, headers: Mapping[str, str] | None = None) -> web.Response:
    """One error in the OpenAI envelope. Terminal refusals tell the SDKs not to retry."""
    sent = dict(headers or {})
    if not error.retryable:
        sent["x-should-retry"] = "false"
    if error.retry_after_s is not None:
        sent["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return web.Response(
        status=error.http_status, body=error.body(), content_type="application/json", headers=sent
    )


def json_response(document: object, status: int = 200) -> web.Response:
    """A JSON document."""
    return web.Response(status=status, body=msgspec.json.encode(document), content_type="application/json")
