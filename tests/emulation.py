"""What the emulator's tests share: a quick engine and raw access to its bytes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from training.emulator import EmulatedEngine, EmulatorConfig
from training.engine import SchedulingPolicy
from training.lengths import LengthTable
from training.profiles import EngineProfile, profile_named

MODEL = "emulated"
CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
HELLO = [{"role": "user", "content": "Hello there, how are you today?"}]


def quick_profile(**changes: Any) -> EngineProfile:
    """An engine with iterations of a millisecond."""
    return msgspec.structs.replace(profile_named("demo"), base_s=0.001, **changes)


@asynccontextmanager
async def emulated(
    lengths: list[int] | LengthTable | None = None, *, profile: EngineProfile | None = None, **config: Any
) -> AsyncIterator[EmulatedEngine]:
    """A running engine; `lengths` are what its answers may have."""
    table = lengths if isinstance(lengths, LengthTable) else LengthTable.of_lengths(lengths or [5])
    config.setdefault("scheduling_policy", SchedulingPolicy.PRIORITY)
    async with EmulatedEngine(EmulatorConfig(profile=profile or quick_profile(), **config), table) as engine:
        yield engine


async def post(engine: EmulatedEngine, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    """Status and decoded body of a unary request; bytes are sent as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body)
    headers = {"content-type": "application/json", **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(engine.url + path, data=data, headers=headers) as response,
    ):
        return response.status, await response.json()


async def events(engine: EmulatedEngine, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """(event name or "", decoded data) of a stream, `[DONE]` as itself."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(engine.url + path, json=body | {"stream": True}) as response,
    ):
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        return [_event(block) for block in (await response.text()).split("\n\n") if block]


def _event(block: str) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    data = fields["data"]
    return fields.get("event", ""), data if data == "[DONE]" else json.loads(data)


def chat(**fields: Any) -> dict[str, Any]:
    """A chat request body."""
    return {"model": MODEL, "messages": HELLO, **fields}


def exactly(tokens: int, **fields: Any) -> dict[str, Any]:
    """A chat request body whose answer has so many tokens."""
    return chat(max_tokens=tokens, ignore_eos=True, **fields)


def metrics(engine: EmulatedEngine) -> dict[tuple[str, str], float]:
    """(sample name, value of its last label but engine and model, or "") -> value."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(engine.inference.render_metrics().decode()):
        for sample in family.samples:
            own = [value for name, value in sample.labels.items() if name not in ("engine", "model_name")]
            found[sample.name, own[-1] if own else ""] = sample.value
    return found


async def until(condition: Any, patience_s: float = 60.0) -> None:
    """Wait until a condition holds; AssertionError when it never does."""
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.001)
