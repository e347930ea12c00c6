"""`python -m training.loop`: run the loop, write its report and its picture."""

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from training.compare.engines import EngineSilentError, RunningEngine, emulated_engine, real_vllm
from training.local_engines import LocalEngineError
from training.loop.arguments import FULL_MINUTES, QUICK_MINUTES, all_but_one, parse
from training.loop.intervals import Interval
from training.loop.phases import Loop, shown_progress
from training.loop.picture import draw
from training.loop.plan import Plan
from training.loop.report import LoopReport, as_json


def main() -> int:
    """Parse, run, write; 1 and one line on stderr where the engine or the training fails."""
    args = parse()
    plan = Plan(
        minutes=args.minutes or (FULL_MINUTES if args.full else QUICK_MINUTES),
        load=args.load,
        calls=args.calls,
        pairs=args.pairs,
        max_tokens=args.max_tokens,
        learn=args.learn,
        requests=args.requests,
        max_overtake_s=args.max_overtake,
        seed=args.seed,
    )
    try:
        with tempfile.TemporaryDirectory() as state, _engine(args) as engine, shown_progress() as progress:
            found = asyncio.run(Loop(plan, engine, Path(args.state or state), progress).run())
        _show(found)
        _write(found, args.out)
    except (LocalEngineError, EngineSilentError, OSError) as error:
        print(f"loop: {error}", file=sys.stderr)
        return 1
    return 1 if any(one.failed for one in found.passes) else 0


def _engine(args: argparse.Namespace) -> AbstractContextManager[RunningEngine]:
    if args.engine == "emulated":
        return emulated_engine(args.seed, args.slots)
    cpus = args.engine_cpus or all_but_one(os.sched_getaffinity(0))
    return real_vllm(args.slots, cpus, args.dtype or ("float32" if args.full else "bfloat16"))


def _write(found: LoopReport, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(as_json(found)), indent=1) + b"\n")
    try:
        draw(found, out.with_suffix(".png"))
    except ImportError:
        print("loop: no picture without matplotlib: pip install matplotlib", file=sys.stderr)


def _table(found: LoopReport) -> Table:
    title = (
        f"{found.requests} requests per pass at {found.load * found.capacity_per_s:.2f}/s, {found.engine}, "
        f"{found.slots} slots, {found.calls:.0%} calls, max_tokens {found.max_tokens} "
        f"({found.capped_share:.0%} reach it)"
    )
    table = Table(title=title, title_justify="left")
    for column in (
        "order",
        "TTFT mean",
        "passes",
        "p99",
        "x FCFS",
        "of oracle",
        "tok/s",
        "overtaken",
    ):
        table.add_column(column, justify="left" if column == "order" else "right", no_wrap=True)
    for one in found.summaries:
        passes = " ".join(f"{value:.2f}" for value in one.passes_s)
        # FCFS beside itself says nothing.
        known = one.arm != "fcfs"
        table.add_row(
            one.arm, f"{one.ttft_mean_s:.2f}", passes, f"{one.ttft_p99_s:.1f}",
            _with(one.times_better, one.between.times_better if known else None, ".2f"),
            _with(one.of_oracle, one.between.of_oracle if known else None, ".0%"),
            f"{one.throughput:.1%}", f"{one.overtaken_s:.1f}",
        )  # fmt: skip
    return table


def _show(found: LoopReport) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(_table(found))
    console.print(f"Before learning the model was asked about {found.asked_share:.0%} of the answers.")
    for ranked in found.ranked:
        console.print(
            f"tau-b of the {ranked.arm} ranker on the measured half: {ranked.tau_b:.3f} "
            f"(asked about {ranked.asked_share:.0%})"
        )
    full = zip(found.saturation.order, found.saturation.passes, strict=True)
    console.print("kept full, tokens/s: " + ", ".join(f"{arm} {rate:.1f}" for arm, rate in full))
    console.print(f"tau-b of the oracle, who knows the first pass's lengths: {found.oracle_tau_b:.3f}")
    if found.retrain is not None:
        console.print(f"retrain: {found.retrain.outcome.value}: {found.retrain.reason}")
    console.print(found.sentence(), style="bold")
    if found.unsteady:
        console.print(found.unsteady, style="bold red")


def _with(value: float | None, between: Interval | None, form: str) -> str:
    """A figure and what it lies between."""
    if value is None or between is None:
        return "-"
    return f"{value:{form}} ({between[0]:{form}} to {between[1]:{form}})"


if __name__ == "__main__":
    sys.exit(main())
