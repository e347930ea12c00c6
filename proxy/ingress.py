"""The way in: read the body within its limits, decode it once, and refuse what cannot be scheduled."""

import asyncio
from typing import Final

import msgspec
from aiohttp import web

from predictor.request import Api, RequestBody, decode_body
from proxy.errors import BodyTimeout, BodyTooLarge, InvalidJson, InvalidRequest
from proxy.splice import refuse_duplicates

# Fields by which the engine's or our own behaviour is steered; parsers disagree on duplicates.
STEERED_FIELDS: Final = (
    "model",
    "stream",
    "stream_options",
    "priority",
    "rid",
    "max_tokens",
    "max_completion_tokens",
    "n",
)
_PROMPT_FIELD: Final = {
    Api.CHAT: "messages",
    Api.COMPLETIONS: "prompt",
    Api.RESPONSES: "input",
    Api.MESSAGES: "messages",
}


async def read_body(request: web.BaseRequest, *, timeout_s: float) -> bytes:
    """The whole body; raises BodyTooLarge, BodyTimeout or InvalidRequest."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise InvalidRequest("Send the body uncompressed: Content-Encoding is not supported by the engines.")
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise BodyTooLarge(f"The request body is too large: {error.text}") from error
    except TimeoutError as error:
        raise BodyTimeout(f"The body was not complete after {timeout_s:g} s.") from error


def parse_body(raw: bytes, api: Api) -> RequestBody:
    """Decode and check a scheduled route's body; raises InvalidJson, DuplicateField or InvalidRequest."""
    try:
        body = decode_body(raw)
        refuse_duplicates(raw, STEERED_FIELDS)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request body is invalid: {error}", param=_path_in(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The request body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidJson("The request body is nested too deeply.") from error
    _check_prompt(body, api)
    return body


def _check_prompt(body: RequestBody, api: Api) -> None:
    field = _PROMPT_FIELD.get(api)
    if field is None:
        return
    value = getattr(body, field)
    if value is None or (field == "messages" and not value):
        raise InvalidRequest(f"The field '{field}' is missing or empty.", param=field)


def _path_in(error: msgspec.ValidationError) -> str | None:
    """The field that a message such as 'Expected `int` - at `$.max_tokens`' names."""
    _, _, path = str(error).partition("`$.")
    return path.rstrip("`") or None
