"""What Headway costs an engine that never runs dry: tokens per second through it and without it."""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from scipy import stats

from training.compare.client import Timing
from training.loop.intervals import Interval

DIRECT: Final = "direct"
HEADWAY: Final = "headway"
# Every answer is as long, and the prompts are about alike (`workload.alike`), so that no order can choose an easier
# mixture for the time that is measured: an engine's step takes longer with more context.
ANSWER_TOKENS: Final = 64
_PER_SLOT: Final = 6


class Full(msgspec.Struct, frozen=True):
    """One pass while the engine was full. `per_step`: output tokens per step of the engine, None if it does not tell."""

    tokens_per_s: float
    per_step: float | None


class Saturation(msgspec.Struct, frozen=True):
    """Tokens per second of each pass, Headway's over the engine's own, and the 95% interval of that ratio.

    `steps`: the same of tokens per step, which the machine's pace does not move: slots that were left empty show there,
    what the proxy takes of the engine's processors does not. Empty and None where the engine does not count steps.
    """

    order: tuple[str, ...]
    passes: tuple[float, ...]
    ratio: float
    between: Interval
    steps: tuple[float, ...] = ()
    steps_ratio: float | None = None
    steps_between: Interval | None = None


def requests_of(slots: int) -> int:
    """How many requests one pass sends to an engine that runs `slots` at once."""
    return _PER_SLOT * slots


def tokens_to_make(slots: int, pairs: int) -> int:
    """What all passes together ask of the engine."""
    return 2 * pairs * requests_of(slots) * ANSWER_TOKENS


def order_of(pairs: int) -> tuple[str, ...]:
    """Pairs of arms, turned round in the order of Thue and Morse: with a multiple of four neither an engine that slows
    down evenly nor one that does so ever faster favours an arm; with two, or six, the first does not."""
    turned = ((HEADWAY, DIRECT) if pair.bit_count() % 2 else (DIRECT, HEADWAY) for pair in range(pairs))
    return tuple(arm for pair in turned for arm in pair)


async def saturate(run: Callable[[str], Awaitable[Full]], pairs: int) -> Saturation:
    """`run(arm)` has a closed loop of twice the slots answered, directly or through Headway."""
    return compared([await run(arm) for arm in order_of(pairs)])


def compared(passes: Sequence[Full]) -> Saturation:
    """Passes in the order of `order_of` -> the ratios within pairs, and their intervals."""
    order = order_of(len(passes) // 2)
    rates = tuple(one.tokens_per_s for one in passes)
    steps = tuple(one.per_step for one in passes if one.per_step is not None)
    ratio, between = _within_pairs(rates, order)
    found = Saturation(order, rates, ratio, between)
    if len(steps) < len(rates):
        return found
    ratio, between = _within_pairs(steps, order)
    return msgspec.structs.replace(found, steps=steps, steps_ratio=ratio, steps_between=between)


def _within_pairs(values: Sequence[float], order: Sequence[str]) -> tuple[float, Interval]:
    """Headway's over direct, the mean of pairs, and its 95% interval by Student's t over them."""
    logs = np.log(np.array(values))
    ours = np.array([arm == HEADWAY for arm in order])
    pairs = np.where(ours, logs, -logs).reshape(-1, 2).sum(axis=1)
    middle = float(pairs.mean())
    reach = float(stats.t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1) / math.sqrt(len(pairs)))
    return math.exp(middle), (math.exp(middle - reach), math.exp(middle + reach))


def tokens_per_s(timings: Sequence[Timing], slots: int) -> float:
    """Tokens per second while the engine was full: from when its first `slots` answers had ended to when the last
    request was sent. An answer's tokens come evenly from its first byte to its last."""
    good = [one for one in timings if one.ok and one.output_tokens]
    first = np.array([one.sent_s + one.ttft_s for one in good])
    last = np.array([one.sent_s + one.e2e_s for one in good])
    tokens = np.array([one.output_tokens for one in good], dtype=np.float64)
    edges = np.array([np.sort(last)[slots - 1], max(one.sent_s for one in good)])
    done = np.clip((edges[:, None] - first) / np.maximum(last - first, 1e-9), 0.0, 1.0) @ tokens
    return float((done[1] - done[0]) / (edges[1] - edges[0]))
