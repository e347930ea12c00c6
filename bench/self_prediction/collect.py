"""Ask a live engine every query, prompt by prompt, and note what came back and what it cost."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Final

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import Progress

from bench.self_prediction.candidates import (
    CHAT,
    CHOSEN,
    GENERATE,
    MORE,
    Query,
    Signal,
    messages_of,
    vllm_queries,
)
from bench.self_prediction.sglang import sglang_queries
from training.prompts import Prompt

_AT_ONCE: Final = 8


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
    url: str, kind: str, model: str, prompts: Sequence[Prompt], *, done: Collection[str] = ()
) -> AsyncIterator[list[Asked]]:
    """All prompts under one query after another, but those in `done`; `kind` is `vllm` or `sglang`.

    Each query's caches are kept apart by `cache_salt`.
    """
    gate = asyncio.Semaphore(_AT_ONCE)
    timeout = aiohttp.ClientTimeout(total=600)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        async with aiohttp.ClientSession(url, timeout=timeout) as session:
            queries = [query for query in await _queries(session, kind, model) if query.name not in done]
            bar = progress.add_task("asking", total=len(prompts) * len(queries))

            async def one(prompt: Prompt, query: Query) -> Asked:
                async with gate:
                    answered = await _ask(session, model, prompt, query)
                progress.advance(bar)
                return answered

            for query in queries:
                yield list(await asyncio.gather(*(one(prompt, query) for prompt in prompts)))


async def _queries(session: aiohttp.ClientSession, kind: str, model: str) -> tuple[Query, ...]:
    ids, more = await _token_ids(session, model, CHOSEN), await _token_ids(session, model, MORE)
    return vllm_queries(ids, more) if kind == "vllm" else sglang_queries(ids | more)


async def _token_ids(session: aiohttp.ClientSession, model: str, texts: Sequence[str]) -> dict[str, int]:
    """The texts that are one token of this model's."""
    ids = {}
    for text in texts:
        tokens = await _tokenize(session, {"model": model, "prompt": text, "add_special_tokens": False})
        if len(tokens) == 1:
            ids[text] = tokens[0]
    return ids


async def _tokenize(session: aiohttp.ClientSession, body: dict[str, Any]) -> list[int]:
    tokens: list[int] = (await _post(session, "/tokenize", body))["tokens"]
    return tokens


async def _ask(session: aiohttp.ClientSession, model: str, prompt: Prompt, query: Query) -> Asked:
    shared = {"model": model, "cache_salt": f"{query.name} {prompt.id}"}
    bodies = [shared | body for body in query.bodies(prompt)]
    if query.route == GENERATE:
        bodies = [body | {"input_ids": await _tokenize(session, body)} for body in bodies]
    started_s = time.perf_counter()
    answers = [await _post(session, query.route, body) for body in bodies]
    took_ms = 1000 * (time.perf_counter() - started_s)
    real = await _post(session, CHAT, shared | {"messages": messages_of(prompt), "max_tokens": 1})
    usages = [_usage(one) for one in answers]
    return Asked(
        prompt_id=prompt.id,
        query=query.name,
        signals={name: read(answers) for name, read in query.readings.items()},
        query_tokens=sum(one["prompt_tokens"] + one["completion_tokens"] for one in usages),
        query_cached=sum(_cached(one) for one in usages),
        query_ms=took_ms,
        real_prompt=_usage(real)["prompt_tokens"],
        real_cached=_cached(_usage(real)),
    )


async def _post(session: aiohttp.ClientSession, route: str, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post(route, json=body) as response:
        answer: dict[str, Any] = await response.json()
        if response.status != 200:
            raise RuntimeError(f"the engine refused a query: {answer}")
        return answer


def _usage(answer: dict[str, Any]) -> dict[str, Any]:
    """Of either form: SGLang's own route has it flat in `meta_info`."""
    usage: dict[str, Any] = answer.get("usage") or answer["meta_info"]
    return usage


def _cached(usage: dict[str, Any]) -> int:
    details = usage.get("prompt_tokens_details") or usage
    return int(details.get("cached_tokens") or 0)
