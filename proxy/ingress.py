"""The way in: read the body within its limits, decode it once, and refuse what cannot be scheduled."""

import asyncio
import re
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.http import HttpVersion11

from predictor.request import Api, RequestBody, decode_body
from proxy.errors import BadHttp, BodyTimeout, BodyTooLarge, InvalidJson, InvalidRequest, UnsupportedEncoding
from proxy.splice import refuse_duplicates, without_fields

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
# JSON knows numbers of any length, the engines do not.
_INT64: Final = range(-(2**63), 2**63)
_COUNTS: Final = (
    "priority",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "min_tokens",
    "n",
    "best_of",
)
_PROMPT_FIELD: Final = {
    Api.CHAT: "messages",
    Api.COMPLETIONS: "prompt",
    Api.RESPONSES: "input",
    Api.MESSAGES: "messages",
}

# Fields that only these APIs know; elsewhere an engine ignores them, whatever they hold.
_KNOWN_TO: Final = {
    "messages": (Api.CHAT, Api.MESSAGES),
    "prompt": (Api.COMPLETIONS,),
    "input": (Api.RESPONSES,),
    "instructions": (Api.RESPONSES,),
    "previous_response_id": (Api.RESPONSES,),
    "max_output_tokens": (Api.RESPONSES,),
    "reasoning": (Api.RESPONSES,),
    "input_ids": (Api.GENERATE,),
    "sampling_params": (Api.GENERATE,),
    "system": (Api.MESSAGES,),
    "thinking": (Api.MESSAGES,),
    "stop_sequences": (Api.MESSAGES,),
}
_FIRST_NAME: Final = re.compile(r"\w+")


def target(request: web.BaseRequest, path: str) -> str:
    """What to ask the engine for: the route's own path, not the client's spelling of it, and its query."""
    query = request.rel_url.raw_query_string
    return f"{path}?{query}" if query else path


async def read_body(request: web.BaseRequest, *, timeout_s: float) -> bytes:
    """The whole body; raises BodyTooLarge, BodyTimeout, UnsupportedEncoding or BadHttp."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedEncoding("Send the body uncompressed: the engines take no Content-Encoding.")
    if (request.content_length or 0) > request.client_max_size:
        raise BodyTooLarge(f"The body has {request.content_length} bytes, {_limit(request)}.")
    try:
        if request.content.is_eof():
            return await request.read()
        await _continue(request)
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise BodyTooLarge(f"The body is too long, {_limit(request)}.") from error
    except web.RequestPayloadError as error:
        raise BadHttp("The body is framed wrongly: check Content-Length or the chunks.") from error
    except TimeoutError as error:
        raise BodyTimeout(f"The body was not complete after {timeout_s:g} s (body_timeout_s).") from error


def _limit(request: web.BaseRequest) -> str:
    return f"{request.client_max_size} are allowed (max_body_bytes)"


async def _continue(request: web.BaseRequest) -> None:
    """Tell a client that asked first to go on; aiohttp does so only for its own router."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # An interim answer is no part of the answer.
        request.writer.output_size = 0


def parse_body(raw: bytes, api: Api) -> RequestBody:
    """Decode and check a scheduled route's body; raises InvalidJson, DuplicateField or InvalidRequest."""
    try:
        body = _decode(raw, api)
        refuse_duplicates(raw, STEERED_FIELDS)
        if not raw.isascii():
            # The decoder does not look into what it skips.
            raw.decode()
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The request body is invalid: {error}", param=_path_in(error)) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidJson(f"The request body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidJson("The request body is nested too deeply.") from error
    _check_prompt(body, api, raw)
    _check_counts(body)
    return body


def _decode(raw: bytes, api: Api) -> RequestBody:
    """Decode a body; a field of another API that holds something odd is passed over."""
    try:
        return decode_body(raw)
    except msgspec.ValidationError as error:
        found = _FIRST_NAME.match(_path_in(error) or "")
        field = found[0] if found else ""
        if api in _KNOWN_TO.get(field, (api,)):
            raise
        rest = without_fields(raw, {field})
        if rest == raw:
            raise
    return _decode(rest, api)


def without_steering(raw: bytes, fields: frozenset[str]) -> bytes:
    """A JSON body less its top-level `fields`, by which no client may steer an engine; raises InvalidJson.

    Python's JSON reader, which the engines use, also takes UTF-16 and UTF-32: there a field could hide.
    """
    if b"\0" in raw:
        raise InvalidJson("The request body is not JSON in UTF-8.")
    try:
        return without_fields(raw, fields)
    except ValueError as error:
        raise InvalidJson(f"The request body is not valid JSON: {error}") from error


def _check_prompt(body: RequestBody, api: Api, raw: bytes) -> None:
    field = _PROMPT_FIELD.get(api)
    if field is None:
        # SGLang's /generate takes a prompt in one of several fields, and says itself what is missing.
        return
    value = getattr(body, field)
    if value is None and api is Api.COMPLETIONS and b'"prompt_embeds"' in raw:
        # vLLM takes a prompt's embeddings in its place.
        return
    if value is None or (field == "messages" and not value):
        raise InvalidRequest(f"The field '{field}' is missing or empty.", param=field)


def _check_counts(body: RequestBody) -> None:
    for field in _COUNTS:
        value = getattr(body, field)
        if value is not None and not _INT64.start <= value < _INT64.stop:
            raise InvalidRequest(f"The field '{field}' is out of range.", param=field)


def _path_in(error: msgspec.ValidationError) -> str | None:
    """The field that a message such as 'Expected `int` - at `$.max_tokens`' names."""
    _, _, path = str(error).partition("`$.")
    return path.rstrip("`") or None
