"""A crowd of streamed requests with known predictions, sent to a proxy before a real engine."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import aiohttp
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


_TAG = re.compile(r"\d\.\d+$")
SLOTS = 4
"""Sequences that the engine under test runs at once."""


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


async def first_bytes(
    url: str, bodies: Sequence[dict[str, Any]], gap_s: float = 0.02, classes: Sequence[str] = ()
) -> list[float]:
    """Send all, `gap_s` apart; returns when each answer's first byte came, in the order of sending."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:

        async def one(place: int, body: dict[str, Any]) -> float:
            await asyncio.sleep(place * gap_s)
            headers = {"x-headway-class": classes[place]} if classes else {}
            async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
                assert response.status == 200, await response.text()
                await response.content.readany()
                began_s = time.monotonic()
                await response.read()
                return began_s

        return list(await asyncio.gather(*(one(place, body) for place, body in enumerate(bodies))))
