"""A crowd of streamed requests with known predictions, sent to a proxy before a real engine."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import harness
import msgspec
import pytest

from predictor.prediction import Prediction
from predictor.request import InferenceRequest
from proxy.app import Headway
from proxy.ranking import Fixed
from proxy.settings import Settings


class Served(Protocol):
    """An engine that runs somewhere."""

    @property
    def base_url(self) -> str:
        """Where it serves."""
        ...

    @property
    def model(self) -> str:
        """The model's name in requests."""
        ...


class Gauged(Served, Protocol):
    """An engine whose kind is known, so that it can be asked how busy it is."""

    kind: str


_TAG = re.compile(r"\d\.\d+$")
SLOTS = 4
"""Sequences that the engine under test runs at once."""
LONG = 1200
"""Tokens of an answer that nobody waits for: longer than a test, and of four there is room in SGLang's cache."""
PATIENCE_S = 120.0
CHAT = "/v1/chat/completions"


class TaggedRanker(msgspec.Struct, frozen=True):
    """Reads the quantile from a chat's last word, so that a test decides who is thought to be short."""

    @property
    def artifact_id(self) -> str:
        return "tagged"

    def predict(self, request: InferenceRequest) -> Prediction:
        messages = request.body.messages
        tag = _TAG.search(str(messages[-1].content)) if messages else None
        quantile = float(tag[0]) if tag else 0.5
        return Prediction(quantile, 100 * quantile, 1.0, 100.0)


def on(*names: str) -> pytest.MarkDecorator:
    """The test runs on these real engines, each by a name of the table in real_engines.py."""
    return pytest.mark.parametrize("real", names, indirect=True, scope="session")


@asynccontextmanager
async def headway_before(engine: Served, state: Path, **more: Any) -> AsyncIterator[Headway]:
    """A proxy in this process before a real engine, with predictions that the prompts carry."""
    url = more.pop("url", engine.base_url)
    # Most tests count what their engine is asked.
    more.setdefault("self_prediction", "off")
    estimator = more.pop("estimator", None) or Fixed(TaggedRanker())
    settings = Settings(engine=(url,), port=0, state=str(state), **more)
    headway = Headway(settings, estimator=estimator)
    await headway.start()
    try:
        yield headway
    finally:
        await headway.stop()


def chat(engine: Served, quantile: float, max_tokens: int, **more: Any) -> dict[str, Any]:
    """A chat that the model answers with exactly `max_tokens` tokens, thought to be of length `quantile`."""
    return {
        "model": engine.model,
        "messages": [{"role": "user", "content": f"Tell me a story about a fox. {quantile}"}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        **more,
    }


async def order_of_beginning(
    real: Gauged, headway: Headway, bodies: Sequence[dict[str, Any]], classes: Sequence[str] = ()
) -> list[int]:
    """Send all while every slot is taken, wait until they have arrived, then give them one slot.

    Returns the places in `bodies` in the order in which the answers began: with one slot free each begins after
    the one before it has ended, however fast the engine and the client are.
    """
    began: list[int] = []
    async with client() as session, all_slots_taken(real, headway, session) as blockers:
        answers = send(session, headway, bodies, began, classes)
        await all_have_arrived(real, headway, SLOTS + len(bodies))
        blockers.pop().close()
        await answers
    return began


def client() -> aiohttp.ClientSession:
    """A client that may wait long and has as many connections as it likes."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=PATIENCE_S)
    )


@asynccontextmanager
async def all_slots_taken(
    real: Served, headway: Headway, session: aiohttp.ClientSession
) -> AsyncIterator[list[aiohttp.ClientResponse]]:
    """Streams that run in every slot, for longer than any test takes; closing one frees its slot."""
    async with AsyncExitStack() as stack:
        asked = [session.post(headway.url + CHAT, json=chat(real, 0.0, LONG)) for _ in range(SLOTS)]
        blockers = [await stack.enter_async_context(one) for one in asked]
        for one in blockers:
            assert one.status == 200, await one.text()
            await one.content.readany()
        yield blockers
        for one in blockers:
            one.close()


async def all_have_arrived(real: Gauged, headway: Headway, count: int) -> None:
    """Wait until so many are at the proxy, and the engine says that it has those which were sent on."""

    async def arrived() -> bool:
        status = headway.status()
        sent = status.running
        there = (min(sent, SLOTS), max(0, sent - SLOTS))
        return status.waiting + sent == count and await load_of(real) == there

    await eventually(arrived)


def send(
    session: aiohttp.ClientSession,
    headway: Headway,
    bodies: Sequence[dict[str, Any]],
    began: list[int] | None = None,
    classes: Sequence[str] = (),
) -> asyncio.Future[list[None]]:
    """Send streamed chats, all at once; each adds its place to `began` when its answer begins."""

    async def one(place: int, body: dict[str, Any]) -> None:
        headers = {"x-headway-class": classes[place]} if classes else {}
        async with session.post(headway.url + CHAT, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            await response.content.readany()
            if began is not None:
                began.append(place)
            await response.read()

    return asyncio.gather(*(one(place, body) for place, body in enumerate(bodies)))


async def load_of(real: Gauged) -> tuple[int, int]:
    """How many requests run and wait in the engine, as it says itself; vLLM's word may be seconds old."""
    async with aiohttp.ClientSession(real.base_url) as session:
        if real.kind == "sglang":
            # Its gauges stand still while it has nothing to do.
            async with session.get("/v1/loads?include=core") as response:
                (rank,) = (await response.json())["loads"]
            return rank["num_running_reqs"], rank["num_waiting_reqs"]
        async with session.get("/metrics") as response:
            lines = (await response.text()).splitlines()
    running, waiting = [
        next(int(float(line.rsplit(" ", 1)[-1])) for line in lines if line.startswith(f"vllm:{name}{{"))
        for name in ("num_requests_running", "num_requests_waiting")
    ]
    return running, waiting


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """As in the other tests, with the patience that a real engine takes, which is asked less often."""
    await harness.eventually(condition, PATIENCE_S, 0.05)
