"""Advice on the engine's own settings, where something measured speaks for it."""

import asyncio
import re
from typing import Final

from proxy.doctor.findings import Finding, note
from proxy.doctor.order import why_busy
from proxy.doctor.target import Target, user

_STREAM_TOKENS: Final = 16
_INTRUDER_TOKENS: Final = 600
_INTRUDE_AFTER: Final = 4
_STALLED_S: Final = 0.5
_BUDGET_FLAG: Final = {"vllm": "--max-num-batched-tokens N", "sglang": "--chunked-prefill-size N"}


async def check_tuning(target: Target) -> list[Finding]:
    """What a long prompt does to a stream beside it, and what the engine's counters tell."""
    metrics = (await target.get("/metrics")).body.decode(errors="replace")
    return [
        *await _chunked_prefill(target),
        *_preemptions(metrics),
        *_retention(target),
        *_sequences(target),
        *_speculation(target, metrics),
    ]


async def _chunked_prefill(target: Target) -> list[Finding]:
    """The longest pause that a stream makes while another prompt is computed."""
    if not target.force and await why_busy(target):
        return []
    tokens = min(_INTRUDER_TOKENS, target.context_tokens // 3)
    intruder = {"messages": user(f"{target.new_id()}" + " word" * tokens), "max_tokens": 1}
    body = {
        "messages": user("Count to a hundred."),
        "max_tokens": _STREAM_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    alone = await target.chat(body)
    if not alone.gaps_s:
        return []
    step_s = alone.step_s

    async def intrude() -> None:
        await asyncio.sleep(_INTRUDE_AFTER * step_s)
        await target.chat(intruder)

    beside, _ = await asyncio.gather(target.chat(body), intrude())
    pause_s = max(beside.gaps_s, default=0.0)
    text = f"{tokens} prompt tokens hold a stream beside them up for {pause_s:.2f} s ({step_s:.3f} s a token)"
    if pause_s > _STALLED_S:
        return [note("chunked prefill", f"{text}: a smaller budget", _BUDGET_FLAG.get(target.adapter.kind))]
    return [note("chunked prefill", text)]


def _preemptions(metrics: str) -> list[Finding]:
    total = _counter(metrics, r"vllm:num_preemptions_total|sglang:num_retracted_requests_total")
    if not total:
        return []
    text = f"{total:.0f} running requests were thrown out for want of KV memory since the engine's start"
    return [note("KV memory", text, "a smaller --max-num-seqs or --max-running-requests, or more memory")]


def _retention(target: Target) -> list[Finding]:
    cache = target.facts.cache
    if cache is None or cache.sliding_window is None or cache.retention in (None, "None"):
        return []
    text = f"a sliding window of {cache.sliding_window} tokens and retention {cache.retention}"
    return [note("prefix retention", text, "--prefix-cache-retention-interval None")]


def _sequences(target: Target) -> list[Finding]:
    settings, cache = target.facts.sglang, target.facts.cache
    if settings is not None and settings.max_running is not None:
        return [note("sequences", f"at most {settings.max_running} run together")]
    if cache is not None and cache.concurrency is not None:
        return [note("sequences", f"the KV cache holds {cache.concurrency:.1f} requests of full length")]
    return []


def _speculation(target: Target, metrics: str) -> list[Finding]:
    settings = target.facts.sglang
    if "vllm:spec_decode" in metrics or (settings is not None and settings.speculative):
        text = "speculative decoding is on: tokens are no measure of time, the window follows first bytes"
        return [note("speculative decoding", text)]
    return []


def _counter(metrics: str, names: str) -> float:
    values = re.findall(rf"^(?:{names})(?:\{{[^\n]*\}})? (\S+)$", metrics, re.MULTILINE)
    return sum(float(value) for value in values)
