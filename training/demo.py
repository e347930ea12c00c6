"""`headway demo`: one crowd of requests through FCFS, Headway, a know-nothing and an oracle, on this machine."""

import argparse
import asyncio
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from proxy.app import Headway
from proxy.ranking import Estimator, Fixed, Ranking
from proxy.settings import Settings
from training.compare.arms import lengths_seen, oracle, shuffled
from training.compare.client import LoadClient, Timing, poisson_arrivals
from training.compare.engines import EngineSilentError, RunningEngine, emulated_engine, real_vllm
from training.compare.report import ArmReport, Comparison, report
from training.local_engines import LocalEngineError
from training.prompts import Prompt, load_prompts

ARMS: Final = ("fcfs", "headway", "shuffled", "oracle-quantile")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `headway demo`."""
    parser.add_argument("--engine", choices=("emulated", "vllm"), default="emulated", help="what serves")
    parser.add_argument("--requests", type=int, default=240, help="requests per arm")
    parser.add_argument("--load", type=float, default=1.3, help="arrival rate over the closed-loop rate")
    parser.add_argument("--max-tokens", type=int, default=512, help="cap of every answer")
    parser.add_argument("--max-overtake", type=float, help="D in seconds; default: 2 x FCFS's p99 wait")
    parser.add_argument("--seed", type=int, default=1, help="seed of prompts and arrivals")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, not the table")


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit status."""
    if args.requests < 8 or not 0 < args.load < math.inf or args.max_tokens < 1:
        print("headway demo: --requests must be at least 8, --load and --max-tokens above 0", file=sys.stderr)
        return 2
    if args.max_overtake is not None and not 0 <= args.max_overtake < math.inf:
        print("headway demo: --max-overtake must be a number of seconds, 0 or more", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory() as state, _engine(args) as engine:
            comparison = asyncio.run(_Demo(args, engine, state).compare())
    except (LocalEngineError, EngineSilentError) as error:
        print(f"headway demo: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(msgspec.json.encode(comparison).decode())
    else:
        show(comparison)
    return 1 if any(arm.failed for arm in comparison.arms) else 0


def _engine(args: argparse.Namespace) -> AbstractContextManager[RunningEngine]:
    if args.engine == "emulated":
        return emulated_engine(args.seed)
    return real_vllm()


class _Demo:
    """One run: calibrate, then each arm on the same prompts at the same times."""

    def __init__(self, args: argparse.Namespace, engine: RunningEngine, state: str) -> None:
        self._args = args
        self._engine = engine
        self._state = state
        self._prompts = choose_prompts(args.requests, args.seed)
        self._body = {"model": engine.model, "max_tokens": args.max_tokens} | engine.body
        self._progress = Progress(console=Console(stderr=True), transient=True)

    async def compare(self) -> Comparison:
        """All arms; the FCFS arm's own answers tell the oracle its lengths and, by default, D."""
        with self._progress:
            rate = await self._capacity()
            at_s = poisson_arrivals(len(self._prompts), self._args.load * rate, self._args.seed)
            fcfs = await self._arm("fcfs", self._engine.url, at_s)
            baseline = report("fcfs", fcfs)
            max_overtake_s = self._args.max_overtake
            if max_overtake_s is None:
                max_overtake_s = round(2 * baseline.ttft_p99_s, 1)
            lengths = lengths_seen(self._prompts, fcfs)
            reports = [baseline]
            for name, estimator in (
                ("headway", shipped()),
                ("shuffled", Fixed(shuffled(lengths, self._args.seed))),
                ("oracle-quantile", Fixed(oracle(lengths))),
            ):
                reports.append(await self._through_headway(name, estimator, max_overtake_s, at_s))
        return Comparison(
            engine=self._engine.name,
            load=self._args.load,
            requests_per_s=self._args.load * rate,
            max_tokens=self._args.max_tokens,
            max_overtake_s=max_overtake_s,
            arms=tuple(reports),
        )

    async def _capacity(self) -> float:
        """Requests per second that the engine serves of this very mix when it is kept full."""
        client = self._client(self._engine.url, "capacity", len(self._prompts))
        timings, rate = await client.closed_loop(self._prompts, 2 * self._engine.slots)
        failed = [timing.error for timing in timings if not timing.ok]
        if failed:
            raise EngineSilentError(f"the engine does not answer: {failed[0]}")
        return rate

    async def _through_headway(
        self, name: str, estimator: Estimator, max_overtake_s: float, at_s: Sequence[float]
    ) -> ArmReport:
        settings = Settings(
            engine=(self._engine.url,),
            port=0,
            state=f"{self._state}/{name}",
            max_overtake=max_overtake_s,
            retrain="off",
            # The emulated engine has no model that could be asked.
            self_prediction="off" if self._args.engine == "emulated" else "auto",
        )
        headway = Headway(settings, estimator=estimator)
        await headway.start()
        try:
            return report(name, await self._arm(name, headway.url, at_s))
        finally:
            await headway.stop()

    async def _arm(self, name: str, url: str, at_s: Sequence[float]) -> list[Timing]:
        client = self._client(url, name, len(at_s))
        return await client.open_loop(self._prompts, at_s)

    def _client(self, url: str, label: str, total: int) -> LoadClient:
        task: TaskID = self._progress.add_task(f"{label:<16}", total=total)
        return LoadClient(
            url, self._body, seeded=self._engine.seeded, done=lambda: self._progress.advance(task)
        )


def choose_prompts(count: int, seed: int) -> list[Prompt]:
    """`count` prompts in random order, each one once before any comes twice."""
    prompts = load_prompts()
    random.Random(seed).shuffle(prompts)
    return (prompts * (count // len(prompts) + 1))[:count]


def shipped() -> Ranking:
    """The ranker that comes in the wheel, with no history."""
    ranking = Ranking()
    ranking.load()
    return ranking


def show(comparison: Comparison) -> None:
    """The table and the sentence."""
    title = (
        f"{comparison.arms[0].requests} requests at {comparison.requests_per_s:.2f}/s "
        f"({comparison.load:g}x capacity), {comparison.engine} engine, "
        f"max_tokens {comparison.max_tokens} ({comparison.arms[0].capped_share:.0%} reach it)"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("order", no_wrap=True)
    for column in ("TTFT mean", "p50", "p99", "E2E mean", "p50", "p99", "tok/s", "overtaken", "of oracle"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm in comparison.arms:
        table.add_row(arm.arm, *_cells(arm, comparison))
    # Wide enough for the table where the output is a file or a pipe.
    console = Console() if sys.stdout.isatty() else Console(width=110)
    console.print(table)
    console.print(f"Seconds. 'overtaken': longest overtaking, bound D = {comparison.max_overtake_s:g} s.")
    console.print(comparison.sentence(), style="bold")


def _cells(arm: ArmReport, comparison: Comparison) -> list[str]:
    times: list[Any] = [arm.ttft_mean_s, arm.ttft_p50_s, arm.ttft_p99_s]
    times += [arm.e2e_mean_s, arm.e2e_p50_s, arm.e2e_p99_s]
    share = comparison.share_of_oracle(arm.arm)
    cells = [f"{value:.2f}" for value in times] + [f"{arm.tokens_per_s:.0f}", f"{arm.overtaken_s:.1f}"]
    return [*cells, "-" if share is None or arm.arm == "fcfs" else f"{share:.0%}"]
