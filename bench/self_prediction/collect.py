"""Ask a live engine every candidate query, prompt by prompt, and note what came back and what it cost."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import Progress

from bench.self_prediction.candidates import Candidate, Signal, messages_of
from training.prompts import Prompt


class Asked(msgspec.Struct):
    """One prompt under one candidate. `real_cached` is of the real request sent right after the queries."""

    prompt_id: str
    candidate: str
    signal: Signal
    query_tokens: int
    query_cached: int
    query_ms: float
    real_prompt: int
    real_cached: int


async def collect(
    url: str, model: str, prompts: Sequence[Prompt], candidates: Sequence[Candidate], concurrency: int
) -> list[Asked]:
    """All candidates for all prompts. Each candidate's caches are kept apart by `cache_salt`."""
    gate = asyncio.Semaphore(concurrency)
    timeout = aiohttp.ClientTimeout(total=600)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("asking", total=len(prompts) * len(candidates))
        async with aiohttp.ClientSession(url, timeout=timeout) as session:

            async def one(prompt: Prompt, candidate: Candidate) -> Asked:
                async with gate:
                    asked = await _ask(session, model, prompt, candidate)
                progress.advance(bar)
                return asked

            return list(await asyncio.gather(*(one(p, c) for c in candidates for p in prompts)))


async def _ask(session: aiohttp.ClientSession, model: str, prompt: Prompt, candidate: Candidate) -> Asked:
    shared = {"model": model, "cache_salt": f"{candidate.name}/{prompt.id}"}
    started_s = time.perf_counter()
    answers = [await _post(session, shared | body) for body in candidate.bodies(prompt)]
    took_ms = 1000 * (time.perf_counter() - started_s)
    real = await _post(session, shared | {"messages": messages_of(prompt), "max_tokens": 1})
    return Asked(
        prompt_id=prompt.id,
        candidate=candidate.name,
        signal=candidate.read(answers),
        query_tokens=sum(one["usage"]["total_tokens"] for one in answers),
        query_cached=sum(_cached(one) for one in answers),
        query_ms=took_ms,
        real_prompt=real["usage"]["prompt_tokens"],
        real_cached=_cached(real),
    )


async def _post(session: aiohttp.ClientSession, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post("/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        answer: dict[str, Any] = await response.json()
        return answer


def _cached(answer: dict[str, Any]) -> int:
    details = answer["usage"].get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)
