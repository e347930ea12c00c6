"""Answers that Headway makes itself: errors and small JSON documents."""

import math
from collections.abc import Mapping

import msgspec
from aiohttp import web

from predictor.request import Api
from proxy.errors import HeadwayError


def error_response(
    error: HeadwayError, headers: Mapping[str, str] | None = None, *, path: str = ""
) -> web.Response:
    """One error in the envelope of the route's API. Terminal refusals tell the SDKs not to retry."""
    sent = dict(headers or {})
    if not error.retryable:
        sent["x-should-retry"] = "false"
    if error.retry_after_s is not None:
        sent["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return web.Response(
        status=error.http_status, body=_body(error, path), content_type="application/json", headers=sent
    )


def error_event(error: HeadwayError, api: Api) -> bytes:
    """The same as the last event of a stream."""
    name = b"event: error\n" if api in (Api.MESSAGES, Api.RESPONSES) else b""
    return name + b"data: " + _body(error, api) + b"\n\n"


def _body(error: HeadwayError, path: str) -> bytes:
    """OpenAI's envelope; Anthropic's has a type beside it."""
    return b'{"type":"error",' + error.body()[1:] if path.startswith(Api.MESSAGES) else error.body()


def json_response(document: object, status: int = 200) -> web.Response:
    """A JSON document."""
    return web.Response(status=status, body=msgspec.json.encode(document), content_type="application/json")
