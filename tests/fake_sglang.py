"""A fake SGLang: its routes, its settings and its ways to answer and to refuse, without a model.

The shapes are those of SGLang 0.5.23's answers on the wire.
"""

import asyncio
import json
from typing import Any

from aiohttp import web

SETTINGS: dict[str, Any] = {
    "version": "0.5.23",
    "schedule_policy": "fcfs",
    "enable_priority_scheduling": True,
    "schedule_low_priority_values_first": True,
    "disable_priority_preemption": True,
    "priority_scheduling_preemption_threshold": 10,
    "default_priority_value": 4,
    "retraction_policy": "priority",
    "enable_cache_report": True,
    "enable_metrics": True,
    "disable_radix_cache": False,
    "page_size": 1,
    "max_running_requests": 8,
    "max_queued_requests": None,
    "chunked_prefill_size": 4096,
    "speculative_algorithm": None,
    "enable_return_hidden_states": False,
    "stream_response_default_include_usage": False,
}
FULL = {"object": "error", "message": "The request queue is full.", "type": "503", "param": None, "code": 503}
USAGE = {
    "prompt_tokens": 37,
    "total_tokens": 45,
    "completion_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 36},
    "reasoning_tokens": 0,
}


class FakeSglang:
    """Started and stopped as a context manager; `received` holds the bodies that came, `aborted` the rids.

    `let`: how many more requests it answers, if it is given; queries for one token it answers always.
    `full`: how many more requests it refuses as a full queue does. `hangs`: answer nothing until the request is aborted.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = SETTINGS | settings
        self.full = 0
        self.hangs = False
        self.let: asyncio.Semaphore | None = None
        self.received: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.aborted: list[str] = []
        self.asked: list[str] = []
        self.key: str | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The base URL."""
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aenter__(self) -> "FakeSglang":
        app = web.Application(middlewares=[self._guarded])
        for path in ("/ready", "/ping", "/server_info", "/metrics", "/v1/models", "/health"):
            app.router.add_get(path, self._page)
        app.router.add_post("/abort_request", self._abort)
        app.router.add_post("/tokenize", self._tokenize)
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/generate"):
            app.router.add_post(path, self._infer)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        open_to_all = request.path.startswith(("/ready", "/health", "/metrics"))
        if self.key and not open_to_all and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def _page(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if request.path == "/server_info":
            return web.json_response(self.settings)
        if request.path == "/v1/models":
            model = {"id": "fake", "object": "model", "owned_by": "sglang", "max_model_len": 8192}
            return web.json_response({"object": "list", "data": [model]})
        if request.path == "/metrics":
            return web.Response(text=METRICS)
        return web.Response()

    async def _abort(self, request: web.Request) -> web.Response:
        self.aborted.append((await request.json())["rid"])
        return web.Response()

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.received.append((request.path, body, dict(request.headers)))
        tokens = [5, 6, 7] if "messages" in body else [sum(body["prompt"].encode())]
        return web.json_response({"tokens": tokens, "count": len(tokens), "max_model_len": 8192})

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.received.append((request.path, body, dict(request.headers)))
        if body.get("return_logprob"):
            return web.json_response(asked(body["token_ids_logprob"]))
        if self.let is not None and not body.get("logprobs"):
            await self.let.acquire()
        if self.hangs:
            await asyncio.Event().wait()
        if self.full:
            self.full -= 1
            return await self._refuse(request, streams=body.get("stream", False))
        if not body.get("stream"):
            return web.json_response(unary(request.path))
        return await _send(request, stream(request.path, usage=bool(body.get("stream_options"))))

    async def _refuse(self, request: web.Request, *, streams: bool) -> web.StreamResponse:
        anthropic = {"type": "error", "error": {"type": "overloaded_error", "message": FULL["message"]}}
        if not streams:
            return web.json_response(anthropic if request.path == "/v1/messages" else FULL, status=503)
        if request.path == "/v1/messages":
            start = {"type": "message_start", "message": {"usage": {"input_tokens": 0, "output_tokens": 0}}}
            return await _send(request, [_named(start), _named(anthropic), _named({"type": "message_stop"})])
        return await _send(request, [_data({"error": FULL}), b"data: [DONE]\n\n"])


def asked(token_ids: list[int]) -> Any:
    """One token with the log-probabilities of chosen ones, all of them unlikely but "Yes"."""
    yes = sum(b"Yes")
    listed = [[-0.1, one, "Yes"] if one == yes else [-9.0, one, f"token {one}"] for one in token_ids]
    whole = unary("/generate")
    return whole | {"meta_info": whole["meta_info"] | {"output_token_ids_logprobs": [listed]}}


def unary(path: str) -> Any:
    """An answer of eight tokens to a prompt of 37, of which 36 were cached."""
    if path == "/generate":
        meta = {"id": "x", "finish_reason": {"type": "stop", "matched": 2}}
        return {
            "text": "Paris.",
            "meta_info": meta
            | {k: USAGE[k] for k in ("prompt_tokens", "completion_tokens")}
            | {"cached_tokens": 36},
        }
    if path == "/v1/responses":
        usage = {"input_tokens": 37, "output_tokens": 8, "input_tokens_details": {"cached_tokens": 36}}
        return {"id": "resp_x", "object": "response", "status": "completed", "output": [], "usage": usage}
    if path == "/v1/messages":
        usage = {"input_tokens": 1, "output_tokens": 8, "cache_read_input_tokens": 36}
        return {"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": USAGE}


def stream(path: str, *, usage: bool) -> list[bytes]:
    """The same as events."""
    whole = unary(path)
    if path == "/generate":
        begun = {
            "text": "Pa",
            "meta_info": whole["meta_info"] | {"finish_reason": None, "completion_tokens": 1},
        }
        return [_data(begun), _data(whole), b"data: [DONE]\n\n"]
    if path == "/v1/responses":
        kinds = ("created", "in_progress")
        begun = {"id": "resp_x", "status": "in_progress", "usage": None, "error": None}
        events = [_named({"type": f"response.{kind}", "response": begun}) for kind in kinds]
        events.append(_named({"type": "response.output_text.delta", "delta": "Pa"}))
        return [*events, _named({"type": "response.completed", "response": whole})]
    if path == "/v1/messages":
        start = {"input_tokens": 1, "output_tokens": 0, "cache_read_input_tokens": 36}
        return [
            _named({"type": "message_start", "message": {"usage": start}}),
            _named({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Pa"}}),
            _named(
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 8}}
            ),
            _named({"type": "message_stop"}),
        ]
    events = [
        _data({"choices": [{"index": 0, "delta": {"content": "Pa"}, "finish_reason": None}]}),
        _data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    ]
    if usage:
        events.append(_data({"choices": [], "usage": USAGE}))
    return [*events, b"data: [DONE]\n\n"]


def _data(document: Any) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def _named(document: dict[str, Any]) -> bytes:
    return f"event: {document['type']}\n".encode() + _data(document)


async def _send(request: web.Request, events: list[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for event in events:
        await response.write(event)
    await response.write_eof()
    return response


_LABELS = 'engine_type="unified",model_name="fake"'
METRICS = "".join(
    f'sglang:{name}{{{_LABELS},priority="{priority}"}} {value}\n'
    for name, values in (
        ("num_running_reqs", (3, 2, 1)),
        ("num_queue_reqs", (2, 2, 0)),
        ("token_usage", (0.5,)),
    )
    for priority, value in zip(("", "4", "0"), values, strict=False)
)
