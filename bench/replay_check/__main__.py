"""`python -m bench.replay_check --engine vllm`: is the replay right about a live engine? About five minutes."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.replay_check.calibrate import Calibration, calibrate
from bench.replay_check.client import Ask, Seen, send_all
from bench.replay_check.verdict import Checked, Times, check, goals
from predictor.prediction import Prediction
from predictor.request import InferenceRequest
from proxy.app import Headway
from proxy.ranking import Fixed
from proxy.scheduling.policy import MICROSECONDS, make_policy
from proxy.settings import Settings
from training.compare.client import poisson_arrivals
from training.compare.engines import RunningEngine, emulated_engine, real_vllm
from training.lengths import LengthTable
from training.loop.workload import choose
from training.profiles import PROFILES, EngineProfile
from training.replay.predictions import places
from training.replay.scene import capacity_per_s
from training.replay.simulate import Jobs, Pool, Run, scheduler, simulate
from training.replay.workload import Item, Workload

_PACE_ROUNDS: Final = 4
_COSTS: Final = ("base_s", "prefill_token_s", "decode_sequence_s", "kv_token_s")
_DIRECT: Final = "no proxy"
# First and last: an engine whose pace has changed in between cannot be replayed by one profile.
_ARMS: Final = (_DIRECT, "fcfs", "quantile", "sjf", _DIRECT)


class Truth(msgspec.Struct, frozen=True):
    """Knows each answer's length, which is its limit: its place among all of them by length."""

    places: dict[int, float]

    @property
    def artifact_id(self) -> str:
        return "oracle"

    def predict(self, request: InferenceRequest) -> Prediction:
        tokens = request.body.max_tokens or 0
        return Prediction(self.places[tokens], tokens, tokens, tokens)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """So many requests at `load` times what the engine serves, their answers cut at `longest` tokens."""

    requests: int
    load: float
    longest: int
    max_overtake_s: float
    seed: int


class Found(msgspec.Struct, frozen=True):
    """The document that `--json` prints."""

    engine: str
    plan: Plan
    capacity_per_s: float
    calibration: Calibration
    checked: tuple[Checked, ...]
    goals: dict[str, bool]


def main() -> int:
    """Calibrate, send, replay, compare; 1 where a goal is missed."""
    args = _parse()
    plan = Plan(
        requests=args.requests,
        load=args.load,
        longest=args.longest,
        max_overtake_s=args.max_overtake,
        seed=args.seed,
    )
    with _engine(args) as engine:
        found, seen = asyncio.run(_check(plan, engine, args.profile))
    if args.raw:
        args.raw.write_bytes(msgspec.json.encode({"arms": _ARMS, "seen": seen}))
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _show(found)
    return 0 if all(found.goals.values()) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.replay_check", description=__doc__)
    add = parser.add_argument
    add("--engine", choices=("emulated", "vllm"), default="emulated", help="what serves")
    add("--slots", type=int, default=8, help="sequences that the engine runs at once")
    add("--requests", type=int, default=80, help="per arm")
    add("--load", type=float, default=1.2, help="arrival rate over what the measured profile serves")
    add("--longest", type=int, default=192, help="tokens at which recorded lengths are cut")
    add("--max-overtake", type=float, default=10.0, help="D in seconds")
    add("--seed", type=int, default=1)
    add(
        "--raw", type=Path, metavar="FILE", help="every token's time as well, to find out where replay is off"
    )
    add("--json", action="store_true", help="print one JSON document on stdout")
    args = parser.parse_args()
    args.profile = PROFILES["demo" if args.engine == "emulated" else "cpu-smollm2"]
    return args


def _engine(args: argparse.Namespace) -> AbstractContextManager[RunningEngine]:
    if args.engine == "emulated":
        return emulated_engine(args.seed, args.slots)
    return real_vllm(args.slots)


async def _check(plan: Plan, engine: RunningEngine, like: EngineProfile) -> tuple[Found, list[list[Seen]]]:
    limits = msgspec.structs.replace(like, max_num_seqs=engine.slots)
    asks = _workload(plan)
    rounds = iter(range(1_000_000))

    async def direct(asks: Sequence[Ask]) -> list[Seen]:
        return await send_all(engine.url, engine.model, asks, f"round {next(rounds)}")

    calibration = await calibrate(direct, limits)
    pool = Pool(calibration.profile)
    prompts = [one.prompt_tokens for one in await direct([_briefly(ask) for ask in asks])]
    sizes = [Item(*pair) for pair in zip(prompts, (ask.max_tokens for ask in asks), strict=True)]
    per_s = capacity_per_s(pool, Workload("recorded lengths", sizes), np.random.default_rng(plan.seed))
    at_s = poisson_arrivals(len(asks), plan.load * per_s, plan.seed)
    asks = [msgspec.structs.replace(ask, at_s=due_s) for ask, due_s in zip(asks, at_s, strict=True)]
    checked: list[Checked] = []
    seen: list[list[Seen]] = []
    for arm in _ARMS:
        through = arm != _DIRECT
        seen.append(await (_through_headway(arm, plan, engine, asks) if through else direct(asks)))
        policy = arm if through else "fcfs"
        own = msgspec.structs.replace(pool, by_key=through)
        checked.append(check(arm, seen[-1], *at_its_pace(policy, plan.max_overtake_s, own, seen[-1])))
    return Found(engine.name, plan, per_s, calibration, tuple(checked), goals(checked)), seen


def _workload(plan: Plan) -> list[Ask]:
    """Prompts of the measuring half with lengths that a real model answered them with."""
    table = LengthTable.load(seed=plan.seed)
    return [
        Ask(0.0, prompt.messages, min(plan.longest, table.answer(prompt.messages, place).tokens))
        for place, prompt in enumerate(choose("measure", plan.requests, plan.seed, 0.0))
    ]


def _briefly(ask: Ask) -> Ask:
    return msgspec.structs.replace(ask, max_tokens=1)


async def _through_headway(policy: str, plan: Plan, engine: RunningEngine, asks: Sequence[Ask]) -> list[Seen]:
    with tempfile.TemporaryDirectory() as state:
        settings = msgspec.convert(
            {
                "engine": [engine.url],
                "port": 0,
                "state": state,
                "policy": policy,
                "max_overtake": plan.max_overtake_s,
                "lane_share": 0.0,
                "retrain": "off",
                "self_prediction": "off",
            },
            Settings,
        )
        headway = Headway(settings, estimator=Fixed(Truth(_places([ask.max_tokens for ask in asks]))))
        await headway.start()
        try:
            return await send_all(headway.url, engine.model, asks, policy)
        finally:
            await headway.stop()


def _places(lengths: Sequence[int]) -> dict[int, float]:
    return dict(zip(lengths, places(np.array(lengths, dtype=np.float64)).tolist(), strict=True))


def replayed(policy: str, max_overtake_s: float, pool: Pool, seen: Sequence[Seen]) -> Run:
    """The same requests, sent when they were sent, in virtual time."""
    lengths = [one.tokens for one in seen]
    place = _places(lengths)
    sent_us = np.maximum.accumulate([round(one.sent_s * MICROSECONDS) for one in seen])
    jobs = Jobs([one.prompt_tokens for one in seen], lengths, sent_us.tolist())
    told = [Prediction(place[tokens], tokens, tokens, tokens) for tokens in lengths]
    return simulate(pool, jobs, told, scheduler(make_policy(policy, max_overtake_s), pool))


def at_its_pace(policy: str, max_overtake_s: float, pool: Pool, seen: Sequence[Seen]) -> tuple[Run, float]:
    """The replay on an engine that decodes as fast as this one did in this arm, and how many times as long as the
    profile says its iterations took: at 1.2 times what it serves, a tenth in pace is a half in waiting."""
    decoded = sum(one.tokens - 1 for one in seen)
    live_s = sum(one.end_s - one.first_s for one in seen) / decoded
    pace = 1.0
    for _ in range(_PACE_ROUNDS):
        run = replayed(policy, max_overtake_s, _slowed(pool, pace), seen)
        pace *= live_s / (float((run.end_s - run.first_token_s).sum()) / decoded)
    return replayed(policy, max_overtake_s, _slowed(pool, pace), seen), pace


def _slowed(pool: Pool, factor: float) -> Pool:
    profile = pool.profile
    slower = msgspec.structs.replace(profile, **{cost: factor * getattr(profile, cost) for cost in _COSTS})
    return msgspec.structs.replace(pool, profile=slower)


def _show(found: Found) -> None:
    profile = found.calibration.profile
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(
        f"{found.engine}: {profile.base_s * 1e3:.1f} ms an iteration + {profile.decode_sequence_s * 1e3:.2f} per "
        f"sequence + {profile.kv_token_s * 1e6:.2f} us per token of context + {profile.prefill_token_s * 1e3:.3f} ms "
        f"per prompt token; {found.capacity_per_s:.2f} requests/s (fits within {found.calibration.worst_error:.0%})"
    )
    table = Table(title="seconds: live, replayed", title_justify="left")
    for column in (
        "policy",
        "TTFT mean",
        "TTFT p99",
        "E2E mean",
        "E2E p99",
        "completion tau",
        "p99 off",
        "pace",
        "moved",
    ):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for one in found.checked:
        pairs = [
            f"{getattr(one.live, name):.2f}, {getattr(one.replayed, name):.2f}"
            for name in Times.__struct_fields__
        ]
        table.add_row(
            one.policy,
            *pairs,
            f"{one.completion_tau:.3f}",
            f"{one.p99_off:.0%}",
            f"{one.pace:.2f}",
            f"{one.moved:.0%}",
        )
    console.print(table)
    for goal, reached in found.goals.items():
        console.print(f"{goal}: {'yes' if reached else 'no'}", style="" if reached else "bold")


if __name__ == "__main__":
    sys.exit(main())
