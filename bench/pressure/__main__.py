"""`python -m bench.pressure [--engine vllm]`: the queue's promises, counted on a live engine (about ten minutes)."""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console

from bench.pressure.crowd import Ask, ByLimit, Crowd, Seen
from proxy.app import Headway
from proxy.ranking import Fixed
from proxy.settings import Settings
from training.compare.engines import RunningEngine, emulated_engine, real_vllm

_LONG: Final = 160
Figures = dict[str, Any]


def main() -> int:
    """Run what was asked for; one JSON document on stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("emulated", "vllm"), default="emulated")
    parser.add_argument("--slots", type=int, nargs="*", default=[4, 8, 32], help="of the saturation runs")
    args = parser.parse_args()
    found: Figures = {}
    for slots in args.slots:
        with _engine(args.engine, slots) as engine:
            found["engine"] = engine.name
            found[f"saturation at {slots} slots"] = asyncio.run(saturation(engine))
            _say(found)
            if slots == args.slots[len(args.slots) // 2]:
                found |= asyncio.run(scenarios(engine))
                _say(found)
    print(msgspec.json.format(msgspec.json.encode(found)).decode())
    return 0


def _say(found: Figures) -> None:
    Console(stderr=True).print_json(msgspec.json.encode(found).decode())


def _engine(kind: str, slots: int) -> contextlib.AbstractContextManager[RunningEngine]:
    return real_vllm(slots) if kind == "vllm" else emulated_engine(1, slots)


@contextlib.asynccontextmanager
async def _headway(engine: RunningEngine, **settings: Any) -> AsyncIterator[Headway]:
    with tempfile.TemporaryDirectory() as state:
        made = Settings(engine=(engine.url,), port=0, state=state, **{"self_prediction": "off"} | settings)
        headway = Headway(made, estimator=Fixed(ByLimit(_LONG)))
        await headway.start()
        try:
            yield headway
        finally:
            await headway.stop()


async def saturation(engine: RunningEngine) -> Figures:
    """Closed loop with twice the slots: tokens/s and mean TTFT, no proxy against `engine` and `hybrid`, there and
    back again."""
    asks = [Ask(0.0, 24 + 8 * (place % 7)) for place in range(max(32, 5 * engine.slots))]
    figures: dict[str, list[tuple[float, float]]] = {"direct": [], "engine": [], "hybrid": []}
    for arm in (*figures, *reversed(figures)):
        async with contextlib.AsyncExitStack() as stack:
            url = engine.url
            if arm != "direct":
                url = (await stack.enter_async_context(_headway(engine, mode=arm))).url
            seen, rate = await Crowd(url, engine.model).closed_loop(asks, 2 * engine.slots)
        assert all(one.status == 200 for one in seen)
        figures[arm].append((round(rate, 1), round(statistics.mean(one.ttft_s for one in seen), 2)))
    return {arm: {"tokens_per_s, ttft_mean_s": passes} for arm, passes in figures.items()}


async def scenarios(engine: RunningEngine) -> Figures:
    """All that is asked of one engine."""
    return {
        "flood, one tenant": await flood(engine, fair=False),
        "flood, two tenants": await flood(engine, fair=True),
        "endless short ones, no lane": await endless(engine, lane_share=0.0),
        "endless short ones, lane 0.1": await endless(engine, lane_share=0.1),
        "overload": await overload(engine),
        "policy switched under load": await switch(engine),
    }


async def flood(engine: RunningEngine, *, fair: bool) -> Figures:
    """One tenant sends 8 times the slots at once, another one request a second."""
    loud = {"x-headway-tenant": "loud"} if fair else {}
    quiet = {"x-headway-tenant": "quiet"} if fair else {}
    asks = [Ask(0.0, 48, loud) for _ in range(8 * engine.slots)]
    asks += [Ask(1.0 + second, 48, quiet) for second in range(8)]
    async with _headway(engine, trust_headers=True) as headway:
        seen = await Crowd(headway.url, engine.model).open_loop(asks)
    return {
        "ttft_mean_s of the loud": _mean(seen[: 8 * engine.slots]),
        "ttft_mean_s of the quiet": _mean(seen[8 * engine.slots :]),
    }


async def endless(engine: RunningEngine, *, lane_share: float) -> Figures:
    """Short answers come faster than they can be served; one long one, with D = 15 s, in the midst of them."""
    async with _headway(engine, max_overtake=15.0, lane_share=lane_share) as headway:
        crowd = Crowd(headway.url, engine.model)
        _, tokens_per_s = await crowd.closed_loop(
            [Ask(0.0, 16) for _ in range(6 * engine.slots)], 2 * engine.slots
        )
        gap_s = 16 / tokens_per_s / 1.3
        asks = [Ask(place * gap_s, 16) for place in range(round(35 / gap_s))] + [Ask(5.0, _LONG)]
        seen = await crowd.open_loop(asks)
    return {
        "ttft_s of the long": round(seen[-1].ttft_s, 2),
        "ttft_mean_s of the short": _mean(seen[:-1]),
        "D": 15.0,
    }


async def overload(engine: RunningEngine) -> Figures:
    """20 times the slots at once: a part may wait three seconds, the queue holds half; every end is counted."""
    count = 20 * engine.slots
    asks = [Ask(0.01 * place, 32, {"x-headway-ttl": "3"} if place % 2 else {}) for place in range(count)]
    async with _headway(engine, max_waiting=count // 2) as headway:
        seen = await Crowd(headway.url, engine.model).open_loop(asks)
        ends = {outcome: number for outcome, number in headway.status().outcomes.items() if number}
    return {
        "sent": count,
        "statuses": dict(Counter(f"{one.status} {one.code}".strip() for one in seen)),
        "ends counted": ends,
        "sum of ends": sum(ends.values()),
    }


async def switch(engine: RunningEngine) -> Figures:
    """Three policies in turn while requests wait: nobody is dropped."""
    asks = [Ask(0.02 * place, 24 + 8 * (place % 5)) for place in range(6 * engine.slots)]
    async with _headway(engine) as headway:
        sending = asyncio.create_task(Crowd(headway.url, engine.model).open_loop(asks))
        waited = []
        for policy, max_overtake_s in (("fcfs", 120.0), ("quantile", 5.0), ("quantile", 120.0)):
            await asyncio.sleep(1.5)
            waited.append(headway.status().waiting)
            changed = {"policy": policy, "max_overtake": max_overtake_s}
            headway.reload(msgspec.structs.replace(headway.settings, **changed))
        seen = await sending
    return {
        "sent": len(asks),
        "answered": sum(s.status == 200 for s in seen),
        "waiting at each switch": waited,
    }


def _mean(seen: Sequence[Seen]) -> float:
    return round(statistics.mean(one.ttft_s for one in seen), 2)


if __name__ == "__main__":
    sys.exit(main())
