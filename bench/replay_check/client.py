"""Sends streams whose length is fixed beforehand, and notes when their tokens came."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from proxy.sse import StreamObserver


class Ask(msgspec.Struct, frozen=True):
    """One streamed chat to send `at_s` seconds after the start; its answer has exactly `max_tokens` tokens."""

    at_s: float
    messages: Sequence[Any]
    max_tokens: int


class Seen(msgspec.Struct, frozen=True):
    """How it went; times in seconds from the run's start. `chunks_s`: when bytes came."""

    sent_s: float
    first_s: float
    end_s: float
    prompt_tokens: int
    tokens: int
    chunks_s: tuple[float, ...] = ()


class UnexpectedAnswerError(RuntimeError):
    """The engine did not answer as it was asked to."""


async def send_all(url: str, model: str, asks: Sequence[Ask], salt: str) -> list[Seen]:
    """Send each at its time, whatever has come back.

    No prompt finds anything of another one's in the engine's cache, nor of its own from an earlier run with another
    `salt`. Raises UnexpectedAnswerError for any answer but a whole one.
    """
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        start_s = time.perf_counter()

        async def one(place: int, ask: Ask) -> Seen:
            await asyncio.sleep(max(0.0, start_s + ask.at_s - time.perf_counter()))
            body = {
                "model": model,
                "messages": msgspec.to_builtins(ask.messages),
                "max_tokens": ask.max_tokens,
                "ignore_eos": True,
                "temperature": 0,
                "cache_salt": f"{salt} {place}",
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            return await _send(session, f"{url}/v1/chat/completions", body, start_s)

        return list(await asyncio.gather(*(one(place, ask) for place, ask in enumerate(asks))))


async def _send(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any], start_s: float) -> Seen:
    observer = StreamObserver(drop_usage=False)
    sent_s = time.perf_counter()
    chunks_s: list[float] = []
    async with session.post(url, json=body) as response:
        async for chunk in response.content.iter_any():
            chunks_s.append(time.perf_counter() - start_s)
            observer.feed(chunk)
    end_s = time.perf_counter()
    usage = observer.usage
    if (
        response.status != 200
        or not chunks_s
        or usage is None
        or usage.completion_tokens != body["max_tokens"]
    ):
        raise UnexpectedAnswerError(f"the engine answered {response.status} with {usage}")
    prompt_tokens, chunks = usage.prompt_tokens or 0, tuple(chunks_s)
    return Seen(sent_s - start_s, chunks[0], end_s - start_s, prompt_tokens, body["max_tokens"], chunks)
