"""The emulated engine's HTTP face: vLLM's routes on aiohttp."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from predictor.request import Api
from training.emulator.answer import Answer
from training.emulator.faults import Faults, FaultSwitch
from training.emulator.inference import Inference, Received
from training.emulator.misbehave import forever, misbehave_before, send_body
from training.emulator.request import ApiError, decode_ask, decode_tokenize
from training.emulator.shapes import AnswerShape
from training.emulator.stream import EventStream

VERSION: Final = "0.32.0"
_MAX_BODY_BYTES: Final = 64 * 2**20

_SCHEDULED: Final = (Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.MESSAGES)

INFERENCE: Final = web.AppKey("inference", Inference)
FAULTS: Final = web.AppKey("faults", FaultSwitch)
RECEIVED: Final = web.AppKey("received", deque[Received])

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(inference: Inference, faults: FaultSwitch, received: deque[Received]) -> web.Application:
    """An application over one life of the engine."""
    app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_guarded, _errors_as_vllm])
    app[INFERENCE] = inference
    app[FAULTS] = faults
    app[RECEIVED] = received
    app.on_response_prepare.append(_say_what_it_is)
    app.add_routes([web.post(api.value, infer) for api in _SCHEDULED])
    app.add_routes(
        [
            web.get("/v1/models", models),
            web.get("/health", health),
            web.get("/version", version),
            web.get("/metrics", metrics),
            web.post("/tokenize", tokenize),
            web.post("/v1/messages/count_tokens", count_tokens),
        ]
    )
    if inference.config.allow_faults:
        app.add_routes([web.get("/emulator/faults", show_faults), web.post("/emulator/faults", set_faults)])
    return app


async def infer(request: web.Request) -> web.StreamResponse:
    """An inference route: decode, queue, answer."""
    faults = request.app[FAULTS].for_next_request()
    raw = await request.read()
    request.app[RECEIVED].append(Received(request.path, dict(request.headers), raw))
    await misbehave_before(request, faults)
    if request.content_type != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise ApiError(400, message, "Bad Request")
    ask = decode_ask(Api(request.path), raw, request.headers)
    inference = request.app[INFERENCE]
    stream = EventStream(faults) if ask.body.stream else None
    answer, shape = inference.begin(ask, request.headers.get("X-Request-Id"), faults, stream)
    try:
        if stream is not None:
            return await _streamed(request, answer, shape, stream)
        await answer.done
    finally:
        inference.drop_unfinished(answer)
    body = msgspec.json.encode(shape.unary(list(answer.choices.values())))
    return await send_body(request, body, faults)


async def _streamed(
    request: web.Request, answer: Answer, shape: AnswerShape, stream: EventStream
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    if request.transport is None:
        raise ConnectionResetError("the client has gone")
    stream.attach(request.transport)
    ends: list[asyncio.Future[Any]] = [answer.done, stream.broken]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if stream.broken.done() and not stream.broken.result():
        await forever()
    stream.send(shape.end(list(answer.choices.values())))
    await response.write_eof()
    return response


async def models(request: web.Request) -> web.Response:
    """GET /v1/models."""
    config = request.app[INFERENCE].config
    created = int(time.time())
    model = {
        "id": config.served_model_name,
        "object": "model",
        "created": created,
        "owned_by": "headway-emulator",
        "root": config.served_model_name,
        "parent": None,
        "max_model_len": config.profile.max_model_len,
        "permission": [],
    }
    return _json({"object": "list", "data": [model]})


async def health(request: web.Request) -> web.Response:
    """GET /health."""
    del request
    return web.Response()


async def version(request: web.Request) -> web.Response:
    """GET /version."""
    del request
    return _json({"version": VERSION})


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics."""
    text = request.app[INFERENCE].render_metrics()
    return web.Response(body=text, headers={"content-type": "text/plain; version=1.0.0; charset=utf-8"})


async def tokenize(request: web.Request) -> web.Response:
    """POST /tokenize, of a prompt or of messages."""
    ids = decode_tokenize(await request.read())
    limit = request.app[INFERENCE].config.profile.max_model_len
    return _json({"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": None})


async def count_tokens(request: web.Request) -> web.Response:
    """POST /v1/messages/count_tokens."""
    count = len(decode_tokenize(await request.read()))
    return _json({"input_tokens": count, "context_management": {"original_input_tokens": count}})


async def show_faults(request: web.Request) -> web.Response:
    """GET /emulator/faults."""
    return web.Response(
        body=msgspec.json.encode(request.app[FAULTS].current), content_type="application/json"
    )


async def set_faults(request: web.Request) -> web.Response:
    """POST /emulator/faults: replaces all of them; `{}` heals."""
    try:
        faults = msgspec.json.decode(await request.read(), type=Faults)
    except msgspec.DecodeError as error:
        raise ApiError(400, f"These are no faults that the emulator knows: {error}") from error
    request.app[FAULTS].set(faults)
    request.app[INFERENCE].loop.set_slowness(faults.slowness)
    return await show_faults(request)


async def _say_what_it_is(request: web.Request, response: web.StreamResponse) -> None:
    del request
    response.headers["x-emulated-engine"] = "headway"


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The key guards only /v1, as in vLLM."""
    key = request.app[INFERENCE].config.api_key
    if (
        key is not None
        and request.path.startswith("/v1")
        and request.headers.get("Authorization") != f"Bearer {key}"
    ):
        return _json({"error": "Unauthorized"}, 401)
    return await handler(request)


@web.middleware
async def _errors_as_vllm(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        anthropic = request.path.startswith(Api.MESSAGES) and not error.found_by_validation
        return _json(error.anthropic_body() if anthropic else error.body(), error.status)
    except web.HTTPException as error:
        return _json({"detail": error.reason}, error.status)


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
