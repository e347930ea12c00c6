"""`python -m bench.pressure.half_load`: at half the load, no slower than no proxy but for what relaying costs."""

import argparse
import asyncio
import contextlib
import itertools
import random
import signal
import statistics
import sys
from typing import Any, Final

import msgspec

from bench.pressure.blocks import added
from bench.pressure.crowd import Ask, Crowd
from bench.pressure.figure import Figure, as_json, show
from bench.pressure.saturation import DIRECT, steady_tokens_per_s
from bench.pressure.served import served
from training.compare.engines import RunningEngine, emulated_engine

_LENGTHS: Final = (16, 24, 32, 48, 64, 96)
# `relay` has nothing to predict and nothing to hold back, `engine` nothing to hold back: what is more in `hybrid`
# is what its queue and its window cost.
_RELAY: Final = "relay"
_ENGINE: Final = "engine"
_HYBRID: Final = "hybrid"
_ARMS: Final[dict[str, dict[str, Any]]] = {
    _RELAY: {"mode": "engine", "policy": "fcfs"},
    _ENGINE: {"mode": "engine"},
    _HYBRID: {"mode": "hybrid"},
}


class Pass(msgspec.Struct, frozen=True):
    """Means of one pass, in milliseconds."""

    ttft_ms: float
    e2e_ms: float


def main() -> int:
    """Measure; 1 where holding requests back makes them slower by more than chance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=4, help="of there-and-back passes")
    parser.add_argument("--requests", type=int, default=150, help="in one pass")
    parser.add_argument("--load", type=float, default=0.5, help="of what the engine bears")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is ended too
    with emulated_engine(1, args.slots) as engine:
        passes = asyncio.run(measure(engine, args.blocks, args.requests, args.load))
    figures = summary(passes)
    if args.json:
        print(as_json(figures))
    else:
        show(figures)
    return 0 if all(one.kept for one in figures) else 1


async def measure(engine: RunningEngine, blocks: int, count: int, load: float) -> dict[str, list[Pass]]:
    """Poisson arrivals, the same in every pass; a block has each arm there and back."""
    asks = await _asks(engine, count, load)
    passes: dict[str, list[Pass]] = {DIRECT: [], **{arm: [] for arm in _ARMS}}
    async with contextlib.AsyncExitStack() as stack:
        urls = {DIRECT: engine.url}
        for arm, settings in _ARMS.items():
            urls[arm] = (await stack.enter_async_context(served(engine.url, **settings))).url
        for arm in passes:
            await Crowd(urls[arm], engine.model).closed_loop(asks[:20], 4)
        for _ in range(blocks):
            for arm in (*passes, *reversed(passes)):
                seen = await Crowd(urls[arm], engine.model).open_loop(asks)
                assert all(one.status == 200 for one in seen)
                ttft_s = statistics.mean(one.ttft_s for one in seen)
                e2e_s = statistics.mean(one.e2e_s for one in seen)
                passes[arm].append(Pass(1e3 * ttft_s, 1e3 * e2e_s))
    return passes


async def _asks(engine: RunningEngine, count: int, load: float) -> list[Ask]:
    """Requests at such a share of the rate at which the engine serves them in a closed loop."""
    closed = [Ask(0.0, _LENGTHS[place % len(_LENGTHS)]) for place in range(8 * engine.slots)]
    flown = await Crowd(engine.url, engine.model).closed_loop(closed, 2 * engine.slots)
    per_s = load * steady_tokens_per_s(flown, engine.slots) / statistics.mean(_LENGTHS)
    rng = random.Random(1)
    at_s = itertools.accumulate(rng.expovariate(per_s) for _ in range(count))
    return [Ask(when_s, rng.choice(_LENGTHS)) for when_s in at_s]


def summary(passes: dict[str, list[Pass]]) -> list[Figure]:
    """What each arm adds to direct; the lower end of what `hybrid` adds to `engine` must not be above nothing."""
    figures = []
    for field in ("ttft_ms", "e2e_ms"):
        values = {arm: [getattr(one, field) for one in own] for arm, own in passes.items()}
        label = field.removesuffix("_ms").upper()
        figures.append(Figure(f"{label} direct, mean", statistics.mean(values[DIRECT]), None, "ms"))
        for arm in _ARMS:
            mean, low, high = added(values[arm], values[DIRECT])
            figures.append(Figure(f"{label} added by {arm} ({low:.2f} to {high:.2f})", mean, None, "ms"))
        for arm, other, goal in ((_ENGINE, _RELAY, None), (_HYBRID, _ENGINE, 0.0)):
            _, low, _ = added(values[arm], values[other])
            figures.append(Figure(f"{label} added by {arm} over {other}, at least", low, goal, "ms"))
    return figures


if __name__ == "__main__":
    sys.exit(main())
