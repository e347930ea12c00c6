"""Requests to a proxy or an engine, and what their senders saw."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from predictor.prediction import Prediction
from predictor.request import InferenceRequest
from proxy.sse import StreamObserver
from training.prompts import load_prompts


class Ask(msgspec.Struct, frozen=True):
    """One streamed chat to send `at_s` seconds after the start."""

    at_s: float
    max_tokens: int
    headers: Mapping[str, str] = {}


class Seen(msgspec.Struct, frozen=True):
    """How it went. Times in seconds, from sending."""

    ask: Ask
    status: int
    ttft_s: float
    e2e_s: float
    tokens: int
    code: str = ""


class Flown(msgspec.Struct, frozen=True):
    """One request of a closed loop, sent `sent_s` seconds after its start."""

    sent_s: float
    seen: Seen

    @property
    def end_s(self) -> float:
        """When its answer was whole, in seconds from the start of the loop."""
        return self.sent_s + self.seen.e2e_s

    def tokens_between(self, begin_s: float, end_s: float) -> float:
        """Tokens that came in this time, spread evenly from the first byte to the end."""
        first_s = self.sent_s + self.seen.ttft_s
        inside_s = min(end_s, self.end_s) - max(begin_s, first_s)
        return self.seen.tokens * max(0.0, inside_s) / max(1e-9, self.end_s - first_s)


class ByLimit(msgspec.Struct, frozen=True):
    """A ranker that takes `max_tokens` at its word; every answer here goes on to its limit."""

    longest: int

    @property
    def artifact_id(self) -> str:
        return "by-limit"

    def predict(self, request: InferenceRequest) -> Prediction:
        tokens = float(request.body.max_tokens or self.longest)
        return Prediction(min(1.0, tokens / self.longest), tokens, tokens, tokens)


class Crowd:
    """Sends to one base URL; every answer has exactly `max_tokens` tokens."""

    def __init__(self, url: str, model: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._model = model
        self._prompts = load_prompts()

    async def open_loop(self, asks: Sequence[Ask]) -> list[Seen]:
        """Send each at its time."""
        async with self._session() as session:
            start_s = time.perf_counter()

            async def one(place: int, ask: Ask) -> Seen:
                await asyncio.sleep(max(0.0, start_s + ask.at_s - time.perf_counter()))
                return await self._send(session, place, ask)

            return list(await asyncio.gather(*(one(place, ask) for place, ask in enumerate(asks))))

    async def closed_loop(self, asks: Sequence[Ask], concurrency: int) -> list[Flown]:
        """Keep `concurrency` going."""
        gate = asyncio.Semaphore(concurrency)
        async with self._session() as session:
            start_s = time.perf_counter()

            async def one(place: int, ask: Ask) -> Flown:
                async with gate:
                    sent_s = time.perf_counter() - start_s
                    return Flown(sent_s, await self._send(session, place, ask))

            return list(await asyncio.gather(*(one(place, ask) for place, ask in enumerate(asks))))

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )

    async def _send(self, session: aiohttp.ClientSession, place: int, ask: Ask) -> Seen:
        prompt = self._prompts[place % len(self._prompts)]
        body = {
            "model": self._model,
            "messages": msgspec.to_builtins(prompt.messages),
            "max_tokens": ask.max_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        observer = StreamObserver(drop_usage=False)
        sent_s = time.perf_counter()
        first_s, whole = 0.0, b""
        async with session.post(self._url, json=body, headers=dict(ask.headers)) as response:
            async for chunk in response.content.iter_any():
                first_s = first_s or time.perf_counter()
                if response.status == 200:
                    observer.feed(chunk)
                else:
                    whole += chunk
        end_s = time.perf_counter()
        tokens = (observer.usage.completion_tokens if observer.usage else None) or 0
        return Seen(ask, response.status, (first_s or end_s) - sent_s, end_s - sent_s, tokens, _code(whole))


def _code(refusal: bytes) -> str:
    if not refusal:
        return ""
    error: dict[str, Any] = msgspec.json.decode(refusal)["error"]
    return str(error.get("code"))
