"""Ask a live engine every query, prompt by prompt, and note what came back and what it cost."""

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import Any

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import Progress

from bench.self_prediction.candidates import CHOSEN, MORE, Query, Signal, messages_of, queries
from training.prompts import Prompt


class Asked(msgspec.Struct):
    """One prompt under one query. `real_cached` is of the real request sent right after it."""

    prompt_id: str
    query: str
    signals: dict[str, Signal]
    query_tokens: int
    query_cached: int
    query_ms: float
    real_prompt: int
    real_cached: int


async def collect(
    url: str, model: str, prompts: Sequence[Prompt], concurrency: int, done: Collection[str] = ()
) -> list[Asked]:
    """All queries for all prompts, but those in `done`. Each query's caches are kept apart by `cache_salt`."""
    gate = asyncio.Semaphore(concurrency)
    timeout = aiohttp.ClientTimeout(total=600)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        async with aiohttp.ClientSession(url, timeout=timeout) as session:
            known = queries(await _token_ids(session, model, CHOSEN), await _token_ids(session, model, MORE))
            asked = [query for query in known if query.name not in done]
            bar = progress.add_task("asking", total=len(prompts) * len(asked))

            async def one(prompt: Prompt, query: Query) -> Asked:
                async with gate:
                    answered = await _ask(session, model, prompt, query)
                progress.advance(bar)
                return answered

            return list(await asyncio.gather(*(one(p, q) for q in asked for p in prompts)))


async def _token_ids(session: aiohttp.ClientSession, model: str, texts: Sequence[str]) -> dict[str, int]:
    """The texts that are one token of this model's."""
    ids = {}
    for text in texts:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        async with session.post("/tokenize", json=body) as response:
            tokens: list[int] = (await response.json())["tokens"]
        if len(tokens) == 1:
            ids[text] = tokens[0]
    return ids


async def _ask(session: aiohttp.ClientSession, model: str, prompt: Prompt, query: Query) -> Asked:
    shared = {"model": model, "cache_salt": f"{query.name} {prompt.id}"}
    started_s = time.perf_counter()
    answers = [await _post(session, shared | body) for body in query.bodies(prompt)]
    took_ms = 1000 * (time.perf_counter() - started_s)
    real = await _post(session, shared | {"messages": messages_of(prompt), "max_tokens": 1})
    return Asked(
        prompt_id=prompt.id,
        query=query.name,
        signals={name: read(answers) for name, read in query.readings.items()},
        query_tokens=sum(one["usage"]["total_tokens"] for one in answers),
        query_cached=sum(_cached(one) for one in answers),
        query_ms=took_ms,
        real_prompt=real["usage"]["prompt_tokens"],
        real_cached=_cached(real),
    )


async def _post(session: aiohttp.ClientSession, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post("/v1/chat/completions", json=body) as response:
        answer: dict[str, Any] = await response.json()
        if response.status != 200:
            raise RuntimeError(f"the engine refused a query: {answer}")
        return answer


def _cached(answer: dict[str, Any]) -> int:
    details = answer["usage"].get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)
