"""A client that sends streamed chats at given times and notes when each answer began and ended."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import aiohttp
import msgspec

from proxy.sse import StreamObserver
from training.prompts import Prompt

_CONNECT_S: Final = 10.0


class Timing(msgspec.Struct, frozen=True):
    """One answer as its client saw it. `sent_s` counts from the run's start, `ttft_s` and `e2e_s` from then."""

    prompt_id: str
    sent_s: float
    ttft_s: float
    e2e_s: float
    output_tokens: int
    finish_reason: str
    ok: bool
    error: str = ""


class LoadClient:
    """Sends to one base URL. All requests carry the same `body` beside their messages."""

    def __init__(
        self, url: str, body: dict[str, Any], *, seeded: bool = False, done: Callable[[], None] = lambda: None
    ) -> None:
        """`seeded`: request i also carries `seed: i`. `done` is called after each answer."""
        self._url = f"{url}/v1/chat/completions"
        self._seeded = seeded
        self._body = body | {"stream": True, "stream_options": {"include_usage": True}}
        self._done = done

    async def open_loop(self, prompts: Sequence[Prompt], at_s: Sequence[float]) -> list[Timing]:
        """Send prompt i at `at_s[i]` seconds from now, whatever has come back; returns in order of sending."""
        async with self._session() as session:
            start_s = time.perf_counter()

            async def one(place: int, due_s: float) -> Timing:
                await asyncio.sleep(max(0.0, start_s + due_s - time.perf_counter()))
                return await self._send(session, prompts[place], place, start_s)

            return list(await asyncio.gather(*(one(place, due_s) for place, due_s in enumerate(at_s))))

    async def closed_loop(self, prompts: Sequence[Prompt], concurrency: int) -> tuple[list[Timing], float]:
        """Keep `concurrency` requests going until all prompts are answered.

        Also returns the requests per second while it was full: those that had ended when the last one began,
        over the time until then.
        """
        async with self._session() as session:
            start_s = time.perf_counter()
            gate = asyncio.Semaphore(concurrency)

            async def one(place: int) -> Timing:
                async with gate:
                    return await self._send(session, prompts[place], place, start_s)

            timings = list(await asyncio.gather(*(one(place) for place in range(len(prompts)))))
        last_began_s = max(timing.sent_s for timing in timings)
        ended = sum(timing.sent_s + timing.e2e_s <= last_began_s for timing in timings)
        return timings, ended / last_began_s

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        )

    async def _send(
        self, session: aiohttp.ClientSession, prompt: Prompt, place: int, start_s: float
    ) -> Timing:
        body = self._body | {"messages": msgspec.to_builtins(prompt.messages)}
        if self._seeded:
            body["seed"] = place
        sent_s = time.perf_counter()
        observer = StreamObserver(drop_usage=False)
        first_s = 0.0
        error = ""
        try:
            async with session.post(self._url, json=body) as response:
                async for chunk in response.content.iter_any():
                    first_s = first_s or time.perf_counter()
                    observer.feed(chunk)
                if response.status != 200:
                    error = f"HTTP {response.status}"
        except aiohttp.ClientError as failure:
            error = f"{type(failure).__name__}: {failure}"
        end_s = time.perf_counter()
        self._done()
        tokens = observer.usage.completion_tokens if observer.usage else None
        return Timing(
            prompt_id=prompt.id,
            sent_s=sent_s - start_s,
            ttft_s=(first_s or end_s) - sent_s,
            e2e_s=end_s - sent_s,
            output_tokens=tokens or 0,
            finish_reason=observer.finish_reason or "",
            ok=not error,
            error=error,
        )


def poisson_arrivals(count: int, per_second: float, seed: int) -> list[float]:
    """`count` arrival times in seconds from 0, exponential gaps, the same for the same seed."""
    rng = random.Random(seed)
    at_s, times = 0.0, []
    for _ in range(count):
        at_s += rng.expovariate(per_second)
        times.append(at_s)
    return times
