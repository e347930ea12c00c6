"""`python -m bench.pressure [--engine vllm]`: the queue's promises, counted on a live engine (about half an hour)."""

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from rich.console import Console

from bench.pressure.crowd import Ask, ByLimit, Crowd, Seen
from bench.pressure.saturation import DIRECT, Figures, saturation, steady_tokens_per_s
from bench.pressure.served import served
from proxy.app import Headway
from proxy.ranking import Fixed
from proxy.settings import Settings
from training.compare.engines import RunningEngine, emulated_engine, real_vllm

_LONG: Final = 160


def main() -> int:
    """Run what was asked for; one JSON document on stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("emulated", "vllm"), default="emulated")
    parser.add_argument("--slots", type=int, nargs="*", default=[4, 8, 32], help="of the saturation runs")
    parser.add_argument("--blocks", type=int, default=4, help="of there-and-back passes; 0: no saturation")
    parser.add_argument(
        "--only", choices=_SCENARIOS, nargs="*", default=tuple(_SCENARIOS), metavar="SCENARIO"
    )
    parser.add_argument("--scenarios-at", type=int, default=8, help="slots of the other runs; 0: none")
    parser.add_argument(
        "--engine-cpus", metavar="CPUS", help='that vLLM computes on, "0" or "0-3"; the rest is the proxy\'s'
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is ended too
    found: Figures = {}
    for slots in args.slots:
        with _engine(args.engine, slots, args.engine_cpus) as engine:
            found["engine"] = engine.name
            if args.blocks:
                found[f"saturation at {slots} slots"] = asyncio.run(_saturation(engine, args.blocks))
                _say(found)
            if slots == args.scenarios_at:
                found |= asyncio.run(scenarios(engine, args.only))
                _say(found)
    print(msgspec.json.format(msgspec.json.encode(found)).decode())
    return 0


def _say(found: Figures) -> None:
    Console(stderr=True).print_json(msgspec.json.encode(found).decode())


def _engine(kind: str, slots: int, cpus: str | None) -> contextlib.AbstractContextManager[RunningEngine]:
    return real_vllm(slots, cpus) if kind == "vllm" else emulated_engine(1, slots)


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


async def _saturation(engine: RunningEngine, blocks: int) -> Figures:
    @contextlib.asynccontextmanager
    async def server(arm: str) -> AsyncIterator[str]:
        if arm == DIRECT:
            yield engine.url
            return
        async with _headway(engine, mode=arm) as headway:
            yield headway.url

    return await saturation(engine, ("engine", "hybrid"), blocks, server, Console(stderr=True).print)


async def scenarios(engine: RunningEngine, names: Sequence[str]) -> Figures:
    """What is asked of one engine."""
    return {name: await _SCENARIOS[name](engine) for name in names}


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
        flown = await crowd.closed_loop([Ask(0.0, 16) for _ in range(6 * engine.slots)], 2 * engine.slots)
        gap_s = 16 / steady_tokens_per_s(flown, engine.slots) / 1.3
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
    """`headway serve` gets three policies in turn by file and SIGHUP while requests wait: nobody is dropped."""
    count = max(64, 8 * engine.slots)
    asks = [Ask(0.01 * place, 24 + 8 * (place % 5)) for place in range(count)]
    at_switch = []
    async with served(engine.url, policy="quantile") as process:
        sending = asyncio.create_task(Crowd(process.url, engine.model).open_loop(asks))
        await asyncio.sleep(0.01 * count)
        for policy, max_overtake_s in (("fcfs", 120.0), ("quantile", 5.0), ("quantile", 120.0)):
            waiting = (await process.status())["waiting"]
            process.reload(policy=policy, max_overtake=max_overtake_s)
            await asyncio.sleep(1.0)
            after = await process.status()
            at_switch.append({"waiting": waiting, "then": f"{after['policy']} {after['max_overtake_s']:g}"})
        seen = await sending
        ends = (await process.status())["outcomes"]
    return {
        "sent": count,
        "statuses": dict(Counter(one.status for one in seen)),
        "tokens as asked": sum(one.tokens == one.ask.max_tokens for one in seen),
        "ends counted": ends,
        "at each SIGHUP": at_switch,
        "ttft_mean_s": _mean(seen),
        "longest_ttft_s": round(max(one.ttft_s for one in seen), 2),
    }


_SCENARIOS: Final[dict[str, Callable[[RunningEngine], Awaitable[Figures]]]] = {
    "flood, one tenant": partial(flood, fair=False),
    "flood, two tenants": partial(flood, fair=True),
    "endless short ones, no lane": partial(endless, lane_share=0.0),
    "endless short ones, lane 0.1": partial(endless, lane_share=0.1),
    "overload": overload,
    "SIGHUP under load": switch,
}


def _mean(seen: Sequence[Seen]) -> float:
    return round(statistics.mean(one.ttft_s for one in seen), 2)


if __name__ == "__main__":
    sys.exit(main())
