"""What the engine's model tells of an answer's length before it is given, by the proxy's own query, and its cost."""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from predictor.self_query import SELF_NAMES, read_signals
from proxy.doctor.findings import Finding, note
from proxy.doctor.target import Target

SHORT: Final = (
    "What is the capital of France? Answer with one word.",
    "Is water wet? Answer yes or no.",
    "What is 2 + 3? Only the number.",
    "Translate 'dog' into Spanish, one word.",
    "Name one primary colour.",
    "Which year did the Titanic sink?",
)
LONG: Final = (
    "Write a detailed story about a dragon who learns to bake.",
    "Explain step by step how a computer processor works.",
    "Write an essay about the causes of the First World War.",
    "Describe in detail how to plan a week in Rome.",
    "Compare Python and Java for large projects, with examples.",
    "List twenty tips for a healthy life and explain each.",
)
_INFORMATIVE: Final = 0.75
_LEAST_SPREAD: Final = 1e-9
_SWITCH: Final = "headway serve --self-prediction off"
_NAME: Final = "self-prediction"


class Told(msgspec.Struct, frozen=True):
    """What one query told, and what it took, its rendering included."""

    signals: Mapping[str, float]
    took_s: float
    prompt_tokens: int


async def check_signals(target: Target) -> list[Finding]:
    """Ask about a small built-in set of prompts whose answers are plainly short or long."""
    if target.adapter.kind == "generic":
        return [note(_NAME, "this server is not asked: only vLLM and SGLang are")]
    token_ids = await target.token_ids()
    try:
        first = await _ask(target, SHORT[0], token_ids)
        rest = await asyncio.gather(*(_ask(target, prompt, token_ids) for prompt in (*SHORT[1:], *LONG)))
    except ValueError as error:
        return [note(_NAME, f"this engine tells nothing: {error}", _SWITCH)]
    asked = f"{len(token_ids)} chosen openings" if token_ids else "its likeliest first tokens"
    return [
        note(_NAME, f"told by the log-probabilities of {asked}"),
        note(f"{_NAME} cost", _cost(first, rest)),
        _worth([one.signals for one in (first, *rest)]),
    ]


async def _ask(target: Target, prompt: str, token_ids: Sequence[int]) -> Told:
    """Raises ValueError where the engine does not answer, or without log-probabilities."""
    began_s = time.monotonic()
    seen = await target.ask_about(prompt, token_ids)
    if not seen.ok:
        raise ValueError(f"the query is refused with status {seen.status}")
    return Told(read_signals(seen.body), time.monotonic() - began_s, seen.prompt_tokens or 0)


def _cost(first: Told, rest: Sequence[Told]) -> str:
    crowd_s = statistics.median(one.took_s for one in rest)
    tokens = statistics.median(one.prompt_tokens for one in (first, *rest))
    return (
        f"{first.took_s:.2f} s alone, {crowd_s:.2f} s among twelve, {tokens:.0f} prompt tokens and one more"
    )


def _worth(signals: Sequence[Mapping[str, float]]) -> Finding:
    share = accuracy(signals)
    text = f"{share:.0%} of pairs of a short and a long answer are told apart (50%: chance)"
    if share >= _INFORMATIVE:
        return note(f"{_NAME} worth", f"informative: {text}")
    return note(f"{_NAME} worth", f"not informative on the built-in prompts: {text}", _SWITCH)


def accuracy(signals: Sequence[Mapping[str, float]]) -> float:
    """Share of (short, long) pairs told apart; `signals` in the order of SHORT, then LONG. Ties count half.

    Each pair is judged by the direction in which the other prompts' means differ: by its own, any noise would do.
    """
    table = np.array([[one[name] for name in SELF_NAMES] for one in signals])
    spread = table.std(axis=0)
    scaled = (table - table.mean(axis=0)) / np.where(spread > _LEAST_SPREAD, spread, 1.0)
    scaled[:, spread <= _LEAST_SPREAD] = 0.0
    short, long = scaled[: len(SHORT)], scaled[len(SHORT) :]
    toward = _means_without_each(long)[None, :] - _means_without_each(short)[:, None]
    apart = ((long[None, :] - short[:, None]) * toward).sum(axis=2)
    return float((np.sign(apart) + 1).mean() / 2)


def _means_without_each(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    without: NDArray[np.float64] = (rows.sum(axis=0) - rows) / (len(rows) - 1)
    return without
