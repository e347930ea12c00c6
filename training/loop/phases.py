"""The loop's phases: learn on one half of the prompts, retrain, then measure every arm on the other half."""

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import Progress, TaskID

from predictor.records import TrafficRecord
from predictor.registry import Role, artifact_directory, write_pointer
from predictor.traffic_store import read_records
from proxy.app import Headway
from proxy.ranking import Estimator, Fixed
from proxy.settings import Settings
from training.compare.arms import lengths_seen, oracle, shuffled
from training.compare.client import LoadClient, Timing, poisson_arrivals
from training.compare.engines import EngineSilentError, RunningEngine
from training.compare.report import ArmReport, report
from training.loop.intervals import intervals
from training.loop.plan import Plan
from training.loop.report import ORACLE, RETRAINED, LoopReport, Ranked, asked_share, ranked_as, summarize
from training.loop.saturation import (
    ANSWER_TOKENS,
    HEADWAY,
    Full,
    Saturation,
    requests_of,
    saturate,
    tokens_per_s,
    tokens_to_make,
)
from training.loop.steps import StepWatch
from training.loop.workload import alike, choose
from training.prompts import Prompt
from training.registry.journal import Decision
from training.registry.store import adopt

# There and back again, so that an engine that slows down or speeds up does so for all alike; what only marks
# the ends of the scale is run once, in the middle.
ORDER: Final = ("fcfs", RETRAINED, ORACLE, "wheel", "oracle-sjf", "shuffled", ORACLE, RETRAINED, "fcfs")
_FEWEST: Final = 24
# Of the time that is left, for what takes longer than thought.
_SPARE: Final = 0.85
# Of slot time for queries while there is something to learn from them: on a CPU one takes a tenth as long as an
# answer, on a GPU a hundredth, which fits into the default. What is measured has the default: on two CPU cores a
# quarter costs 4% of the engine's pace, as much as the better order gains (13.4 s with it, 13.9 s without, FCFS 25.5).
_LEARNING_SHARE: Final = 0.25


class Loop:
    """One run of the loop on one engine."""

    def __init__(self, plan: Plan, engine: RunningEngine, state: Path, progress: Progress) -> None:
        self._plan = plan
        self._engine = engine
        self._state = state
        self._progress = progress
        self._body = {"model": engine.model, "max_tokens": plan.max_tokens} | engine.body
        self._started_s = time.monotonic()
        self._tokens_per_s = 0.0

    async def run(self) -> LoopReport:
        """All phases. Raises EngineSilentError where the engine does not answer or the training fails."""
        capacity_per_s = await self._learn()
        decision = await self._retrain()
        prompts = choose("measure", self._requests(capacity_per_s), self._plan.seed, self._plan.calls)
        at_s = poisson_arrivals(len(prompts), self._plan.load * capacity_per_s, self._plan.seed)
        measured = _Measured(self, prompts, at_s, decision)
        passes = []
        for place, name in enumerate(ORDER):
            passes.append(await measured.arm(place, name))
            self._keep(passes[-1], measured.runs[name][-1])
        saturation = await self._saturate(decision)
        between = intervals(measured.runs, ORACLE, seed=self._plan.seed)
        return LoopReport(
            engine=self._engine.name,
            slots=self._engine.slots,
            max_tokens=self._plan.max_tokens,
            capped_share=passes[0].capped_share,
            load=self._plan.load,
            calls=self._plan.calls,
            capacity_per_s=capacity_per_s,
            learned_from=decision.trained_on + decision.held_out,
            requests=len(prompts),
            max_overtake_s=measured.max_overtake_s,
            order=ORDER,
            summaries=summarize(passes, between),
            passes=tuple(passes),
            pace=tuple(round(pace, 1) for pace in measured.pace),
            oracle_tau_b=measured.oracle_tau_b,
            ranked=tuple(measured.ranked),
            asked_share=asked_share(self.log_of("learn")),
            saturation=saturation,
            retrain=decision,
            seconds=round(time.monotonic() - self._started_s, 1),
        )

    def _keep(self, found: ArmReport, timings: Sequence[Timing]) -> None:
        """Each pass on the disk as soon as it is over: an hour's work must not hang on its last minute."""
        with (self._state / "passes.jsonl").open("ab") as file:
            file.write(msgspec.json.encode({"figures": found, "timings": timings}) + b"\n")

    async def _learn(self) -> float:
        """The training half through Headway as it comes; returns the requests per second that were served."""
        prompts = choose("train", self._plan.learn, self._plan.seed, self._plan.calls)
        headway = self.headway(
            "learn", None, policy="quantile", max_overtake_s=120.0, self_prediction_share=_LEARNING_SHARE
        )
        await headway.start()
        try:
            client = self.client(headway.url, "learning", len(prompts))
            timings, rate = await client.closed_loop(prompts, 2 * self.slots)
        finally:
            await headway.stop()
        failed = [timing.error for timing in timings if not timing.ok]
        if failed:
            raise EngineSilentError(f"the engine does not answer: {failed[0]}")
        self._tokens_per_s = rate * sum(one.output_tokens for one in timings) / len(timings)
        return rate

    async def _retrain(self) -> Decision:
        """`headway retrain`, as an operator or the proxy would call it."""
        command = [sys.executable, "-P", "-m", "headway", "retrain", "--state", str(self._state / "learn")]
        task = self._progress.add_task("retraining", total=None)
        done = await asyncio.to_thread(
            subprocess.run, [*command, "--replay-requests", "600", "--json"], capture_output=True, check=False
        )
        self._progress.update(task, total=1, completed=1)
        if done.returncode:
            raise EngineSilentError(done.stderr.decode().strip())
        return msgspec.convert(json.loads(done.stdout)["decision"], Decision)

    def _requests(self, capacity_per_s: float) -> int:
        """What fits into the time that is left: a pass takes as long as its requests take the engine."""
        if self._plan.requests is not None:
            return self._plan.requests
        saturated_s = tokens_to_make(self._engine.slots, self._plan.pairs) / self._tokens_per_s
        left_s = 60 * self._plan.minutes - saturated_s - (time.monotonic() - self._started_s)
        return max(_FEWEST, int(_SPARE * left_s / len(ORDER) * capacity_per_s))

    async def _saturate(self, decision: Decision) -> Saturation:
        """The engine kept full, directly and through Headway with the retrained ranker."""
        prompts = alike("measure", requests_of(self._engine.slots))
        if decision.artifact is not None:
            await asyncio.to_thread(self.publish, decision.artifact, "saturated")
        headway = self.headway("saturated", None, policy="quantile", max_overtake_s=120.0)
        body = {"max_tokens": ANSWER_TOKENS, "ignore_eos": True}

        async def run(arm: str) -> Full:
            url = headway.url if arm == HEADWAY else self.direct_url
            watch = StepWatch(self.direct_url, self.slots, len(prompts) - 2 * self.slots)
            client = self.client(url, f"full, {arm}", len(prompts), body, watch.answered)
            timings, _ = await client.closed_loop(prompts, 2 * self.slots)
            return Full(tokens_per_s(timings, self.slots), await watch.tokens_per_step())

        await headway.start()
        try:
            return await saturate(run, self._plan.pairs)
        finally:
            await headway.stop()

    def headway(
        self, name: str, estimator: Estimator | None, *, policy: str, max_overtake_s: float, **more: float
    ) -> Headway:
        """A proxy with a state directory of its own; without `estimator` it serves as installed. `more`: settings."""
        settings = msgspec.convert(
            {
                "engine": [self._engine.url],
                "port": 0,
                "state": str(self._state / name),
                "policy": policy,
                "max_overtake": max_overtake_s,
                # What is compared is the ranker: every arm has the same knobs.
                "lane_share": 0.0,
                "retrain": "off",
                # Seeded is the emulated engine, which has no model that could be asked.
                "self_prediction": "off" if self._engine.seeded else "on",
            }
            | more,
            Settings,
        )
        return Headway(settings, estimator=estimator)

    def client(
        self,
        url: str,
        label: str,
        total: int,
        body: Mapping[str, Any] = MappingProxyType({}),
        answered: Callable[[], None] = lambda: None,
    ) -> LoadClient:
        """A client that shows its progress; `body` goes over what every request carries."""
        task: TaskID = self._progress.add_task(f"{label:<16}", total=total)

        def done() -> None:
            self._progress.advance(task)
            answered()

        return LoadClient(url, {**self._body, **body}, seeded=self._engine.seeded, done=done)

    @property
    def direct_url(self) -> str:
        """The engine without a proxy."""
        return self._engine.url

    @property
    def slots(self) -> int:
        """Sequences that the engine runs at once."""
        return self._engine.slots

    @property
    def plan(self) -> Plan:
        """What was asked for."""
        return self._plan

    def log_of(self, name: str) -> list[TrafficRecord]:
        """What a proxy of that name has logged."""
        return list(read_records(self._state / name / "traffic.db"))

    def publish(self, artifact_id: str, name: str) -> None:
        """Give the proxy `name` an artifact of the learning phase as its champion, whatever the gate said of it."""
        state = self._state / name
        adopt(state, artifact_directory(self._state / "learn", artifact_id))
        write_pointer(state, Role.CHAMPION, artifact_id)


class _Measured:
    """The measuring half: the same prompts at the same times in every arm."""

    def __init__(self, loop: Loop, prompts: list[Prompt], at_s: list[float], decision: Decision) -> None:
        self._loop = loop
        self._prompts = prompts
        self._at_s = at_s
        self._decision = decision
        self._lengths: dict[bytes, float] = {}
        self.max_overtake_s = loop.plan.max_overtake_s or 0.0
        self.ranked: list[Ranked] = []
        self.runs: dict[str, list[Sequence[Timing]]] = {}
        self.pace: list[float] = []
        self.oracle_tau_b = math.nan

    async def arm(self, place: int, name: str) -> ArmReport:
        """One pass. The first is FCFS: its answers tell the oracle the lengths and, by default, D."""
        if name == "fcfs":
            timings = await self._send(name, self._loop.direct_url)
            found = report(name, timings)
            if not self._lengths:
                self._lengths = lengths_seen(self._prompts, timings)
                self.max_overtake_s = self.max_overtake_s or round(2 * found.ttft_p99_s, 1)
            return found
        label = f"{place}-{name}"
        policy = "sjf" if name == "oracle-sjf" else "quantile"
        if name == RETRAINED and self._decision.artifact is not None:
            await asyncio.to_thread(self._loop.publish, self._decision.artifact, label)
        headway = self._loop.headway(
            label, self._estimator(name), policy=policy, max_overtake_s=self.max_overtake_s
        )
        await headway.start()
        try:
            found = report(name, await self._send(name, headway.url))
        finally:
            await headway.stop()
        ranked = ranked_as(name, self._loop.log_of(label))
        if name in ("wheel", RETRAINED) and name not in {one.arm for one in self.ranked}:
            self.ranked.append(ranked)
        if name == ORACLE:
            self.oracle_tau_b = ranked.tau_b
        return found

    def _estimator(self, name: str) -> Estimator | None:
        """None: the ranker of an installation, the wheel's or what is published."""
        if name in ("wheel", RETRAINED):
            return None
        if name == "shuffled":
            return Fixed(shuffled(self._lengths, self._loop.plan.seed))
        return Fixed(oracle(self._lengths))

    async def _send(self, name: str, url: str) -> Sequence[Timing]:
        timings = await self._loop.client(url, name, len(self._at_s)).open_loop(self._prompts, self._at_s)
        self.runs.setdefault(name, []).append(timings)
        self.pace.append(tokens_per_s(timings, self._loop.slots))
        return timings


def shown_progress() -> Progress:
    """Bars on stderr, gone at the end."""
    return Progress(console=Console(stderr=True), transient=True)
