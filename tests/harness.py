"""A proxy before an engine, inside the test's own event loop, and raw sockets to speak to it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from wire import Message, read_messages

from predictor.prediction import Prediction
from predictor.request import InferenceRequest
from proxy.app import Headway
from proxy.ranking import Fixed
from proxy.settings import Settings
from training.emulator import EmulatedEngine, EmulatorConfig
from training.engine import SchedulingPolicy
from training.lengths import LengthTable
from training.profiles import EngineProfile

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
PATIENCE_S = 60.0
FAST = EngineProfile(
    name="fast",
    base_s=1e-3,
    prefill_token_s=0.0,
    decode_sequence_s=0.0,
    kv_token_s=0.0,
    block_size=16,
    num_blocks=65_536,
    max_num_seqs=512,
    max_num_batched_tokens=1 << 20,
    max_model_len=1 << 24,
)


def engine_of(
    lengths: Iterable[int] = (5,),
    *,
    slots: int = FAST.max_num_seqs,
    base_s: float = FAST.base_s,
    policy: SchedulingPolicy = SchedulingPolicy.PRIORITY,
    keep_received: int = 10_000,
    **config: Any,
) -> EmulatedEngine:
    """An emulated engine, not started, whose answers have these lengths and take `base_s` per token."""
    profile = msgspec.structs.replace(FAST, max_num_seqs=slots, base_s=base_s)
    return EmulatedEngine(
        EmulatorConfig(profile=profile, scheduling_policy=policy, keep_received=keep_received, **config),
        LengthTable.of_lengths(lengths),
    )


@contextlib.asynccontextmanager
async def proxy_before(
    *engines: str, state: Path | None = None, estimator: Any = None, **settings: Any
) -> AsyncIterator[Headway]:
    """A proxy on a free port; with `state` it writes its traffic log there."""
    # Most tests count what their engine is asked.
    settings.setdefault("self_prediction", "off")
    headway = Headway(
        Settings(
            engine=engines,
            port=0,
            state=str(state or ""),
            traffic_log=state is not None,
            **settings,
        ),
        estimator=estimator or Fixed(ByMaxTokens()),
    )
    await headway.start()
    try:
        yield headway
    finally:
        await headway.stop()


@contextlib.asynccontextmanager
async def serving_app(*routes: web.RouteDef) -> AsyncIterator[str]:
    """A plain HTTP server with these routes; gives its base URL."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class ByMaxTokens(msgspec.Struct, frozen=True):
    """A ranker that believes the request's `max_tokens`: the test says how long the answer will be."""

    @property
    def artifact_id(self) -> str:
        return "by-max-tokens"

    def predict(self, request: InferenceRequest) -> Prediction:
        tokens = min(request.body.max_tokens or 256, 1000)
        return Prediction(tokens / 1000, tokens, tokens / 2, tokens * 2)


def chat(text: str = "Say hello.", **fields: Any) -> bytes:
    """A chat request's body."""
    return msgspec.json.encode({"messages": [{"role": "user", "content": text}], **fields})


def session() -> aiohttp.ClientSession:
    """A client without limits that shows what came as it came."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    )


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], patience_s: float = PATIENCE_S, pause_s: float = 0.005
) -> None:
    """Wait until a condition holds that nobody announces; fails after a long time."""
    async with asyncio.timeout(patience_s):
        while True:
            held = condition()
            if await held if isinstance(held, Awaitable) else held:
                return
            await asyncio.sleep(pause_s)


async def idle(headway: Headway) -> None:
    """Wait until nothing waits or runs at the proxy."""
    await eventually(lambda: (headway.status().waiting, headway.status().running) == (0, 0))


async def metrics_text(headway: Headway) -> str:
    """What the proxy's /metrics tells whoever may read it."""
    return headway.metrics.exposition().decode()


async def outcomes(headway: Headway) -> dict[str, int]:
    """How many requests ended in which way, as /metrics tells; outcomes that never happened are left out."""
    found: dict[str, int] = {}
    for line in (await metrics_text(headway)).splitlines():
        if match := re.match(r'headway_requests_total\{.*outcome="(\w+)".*\} (\S+)', line):
            name, count = match[1], int(float(match[2]))
            found[name] = found.get(name, 0) + count
    return {name: count for name, count in found.items() if count}


class Raw:
    """A client that is a bare socket: it sends any bytes and reads whole HTTP answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Message:
        """The next whole answer; the rest of the connection where it ends before."""
        async with asyncio.timeout(PATIENCE_S):
            raw = b""
            while True:
                message = next(read_messages(raw), None)
                framed = message and message.header_names() & {"content-length", "transfer-encoding"}
                if message and framed and message.complete:
                    return message
                more = await self.reader.read(1 << 16)
                if not more:
                    assert message is not None, f"no answer, only {raw!r}"
                    return message
                raw += more

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    async def close(self) -> None:
        """Close the connection in good order."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Close the connection at once."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def raw_client(headway: Headway) -> AsyncIterator[Raw]:
    """A bare socket to the proxy."""
    client = Raw(*await asyncio.open_connection(headway.settings.host, headway.port))
    try:
        yield client
    finally:
        await client.close()


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A POST request's bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: headway", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def concrete(path: str) -> str:
    """A path that a client may ask for, of one with variable parts."""
    return path.replace("{id}", "resp_1").replace("{model}", "org/model")


def bare(method: str, path: str) -> bytes:
    """A request without a body."""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()


async def ask_raw(headway: Headway, data: bytes) -> Message:
    """Send bytes on a new connection; returns the answer."""
    async with raw_client(headway) as client:
        await client.send(data)
        return await client.answer()


async def ask(headway: Headway) -> None:
    """One chat, answered in full."""
    assert (await ask_raw(headway, post(CHAT, chat(model="emulated")))).status == 200


def error_of(body: bytes, code: str) -> dict[str, Any]:
    """The error in an answer, which must have the OpenAI shape and this code; Anthropic's has a type beside it."""
    document = msgspec.json.decode(body)
    assert document.pop("type", "error") == "error"
    assert set(document) == {"error"}
    error: dict[str, Any] = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["code"] == code
    return error
