"""Saturated throughput without and with the proxy: short passes there and back again, compared block by block."""

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from math import exp, log
from typing import Any, Final

import msgspec

from bench.pressure.blocks import added
from bench.pressure.crowd import Ask, Crowd, Flown
from training.compare.engines import RunningEngine

DIRECT: Final = "direct"
Figures = dict[str, Any]
Server = Callable[[str], contextlib.AbstractAsyncContextManager[str]]
"""From an arm's name to the URL that it asks, for as long as it is asked."""


class Pass(msgspec.Struct, frozen=True):
    """One pass of one arm."""

    tokens_per_s: float
    ttft_mean_s: float
    cpu_us_per_token: float
    """Of this process: of client and proxy, or of the client alone."""


async def saturation(
    engine: RunningEngine, arms: Sequence[str], blocks: int, server: Server, tell: Callable[[str], object]
) -> Figures:
    """Closed loop with twice the slots; a block has each arm twice, so that what drifts evenly cancels in it.

    `tell` hears of each pass: a run that is cut short has said what it saw.
    """
    asks = [Ask(0.0, 24 + 8 * (place % 7)) for place in range(max(40, 5 * engine.slots))]
    passes: dict[str, list[Pass]] = {DIRECT: [], **{arm: [] for arm in arms}}
    await Crowd(engine.url, engine.model).closed_loop(asks[: 2 * engine.slots], 2 * engine.slots)
    for _ in range(blocks):
        for arm in (*passes, *reversed(passes)):
            async with server(arm) as url:
                cpu_s = time.process_time()
                flown = await Crowd(url, engine.model).closed_loop(asks, 2 * engine.slots)
            assert all(one.seen.status == 200 for one in flown)
            ttft_mean_s = statistics.mean(one.seen.ttft_s for one in flown)
            cpu_s = time.process_time() - cpu_s
            cpu_us = cpu_s * 1e6 / sum(one.seen.tokens for one in flown)
            passes[arm].append(Pass(steady_tokens_per_s(flown, engine.slots), ttft_mean_s, cpu_us))
            tell(f"{engine.slots} slots, {arm}: {passes[arm][-1].tokens_per_s:.1f} tokens/s")
    return summary(passes)


def steady_tokens_per_s(flown: Sequence[Flown], slots: int) -> float:
    """Output tokens per second from the end of the first `slots` answers until the last request was sent.

    What is under way at either end counts by its part in between, each answer's tokens spread evenly from its
    first byte to its end: otherwise an arm that leaves the long ones for later would seem slower.
    """
    begin_s = sorted(one.end_s for one in flown)[slots - 1]
    end_s = max(one.sent_s for one in flown)
    return sum(one.tokens_between(begin_s, end_s) for one in flown) / (end_s - begin_s)


def summary(passes: Mapping[str, Sequence[Pass]]) -> Figures:
    """Means of each arm, and throughput relative to direct with its 95% interval over the blocks."""
    return {
        arm: {
            "tokens_per_s": round(statistics.mean(one.tokens_per_s for one in own), 1),
            "ttft_mean_s": round(statistics.mean(one.ttft_mean_s for one in own), 2),
            "cpu_us_per_token": round(statistics.mean(one.cpu_us_per_token for one in own)),
            "passes": [round(one.tokens_per_s, 1) for one in own],
        }
        | ({} if arm == DIRECT else {"of direct": ratio_interval(own, passes[DIRECT])})
        for arm, own in passes.items()
    }


def ratio_interval(passes: Sequence[Pass], direct: Sequence[Pass]) -> tuple[float, float, float]:
    """Throughput over direct's: geometric mean over the blocks, and its 95% interval."""
    own, base = ([log(one.tokens_per_s) for one in arm] for arm in (passes, direct))
    mean, low, high = (round(exp(value), 3) for value in added(own, base))
    return mean, low, high
