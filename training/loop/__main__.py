"""`python -m training.loop`: run the loop, write its report and its picture."""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from training.compare.engines import EngineSilentError, RunningEngine, emulated_engine, real_vllm
from training.local_engines import LocalEngineError
from training.loop.intervals import Interval
from training.loop.phases import Loop, Plan, shown_progress
from training.loop.picture import draw
from training.loop.report import LoopReport, as_json

_QUICK_MINUTES: Final = 20.0
_FULL_MINUTES: Final = 120.0
_SLOTS: Final = 16


def main() -> int:
    """Parse, run, write; 1 and one line on stderr where the engine or the training fails."""
    args = _parse()
    plan = Plan(
        minutes=args.minutes or (_FULL_MINUTES if args.full else _QUICK_MINUTES),
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
        _write(found, args.out)
    except (LocalEngineError, EngineSilentError, OSError) as error:
        print(f"loop: {error}", file=sys.stderr)
        return 1
    _show(found)
    return 1 if any(one.failed for one in found.passes) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.loop", description=__doc__)
    add = parser.add_argument
    add("--engine", choices=("emulated", "vllm"), default="emulated", help="what serves")
    add("--quick", action="store_true", help=f"within {_QUICK_MINUTES:g} minutes (the default)")
    add("--full", action="store_true", help=f"within {_FULL_MINUTES:g} minutes")
    add("--minutes", type=float, help="within so many")
    add("--load", type=float, default=1.3, help="arrival rate over the closed-loop rate")
    add(
        "--calls", type=float, default=0.6, metavar="SHARE",
        help="of all requests, what programs send (answers of a word or two); the rest is what people write",
    )  # fmt: skip
    # At 256 the recorded lengths differ so little that true ones give 1.6 to 1.7 times, at 512 about 2.
    add("--max-tokens", type=int, default=512, help="cap of every answer")
    add("--learn", type=int, default=600, help="requests of the training half that are learned from")
    add("--requests", type=int, help="requests per measured pass; default: what fits into the time")
    add("--max-overtake", type=float, help="D in seconds; default: 2 x FCFS's p99 TTFT")
    add("--slots", type=int, default=_SLOTS, help="sequences that the engine runs at once")
    add(
        "--engine-cpus", metavar="CPUS",
        help='that the real engine computes on, "0" or "0-3" (default: all but one, which proxy and client share)',
    )  # fmt: skip
    add(
        "--dtype", choices=("bfloat16", "float32"),
        help="what the real engine computes in: in float32 answers repeat, at half the pace (default with --full)",
    )  # fmt: skip
    add(
        "--pairs",
        type=int,
        default=4,
        help="of passes that keep the engine full, without Headway and through it",
    )
    add("--seed", type=int, default=1)
    add("--state", metavar="DIR", help="keep the logs and artifacts here")
    add(
        "--out", type=Path, default=Path("build/loop.json"), metavar="FILE", help="the picture lies beside it"
    )
    return parser.parse_args()


def _engine(args: argparse.Namespace) -> AbstractContextManager[RunningEngine]:
    if args.engine == "emulated":
        return emulated_engine(args.seed, args.slots)
    cpus = args.engine_cpus or all_but_one(os.sched_getaffinity(0))
    return real_vllm(args.slots, cpus, args.dtype or ("float32" if args.full else "bfloat16"))


def all_but_one(cpus: Collection[int]) -> str:
    """CPUs for the engine's model, as vLLM has them: on a GPU it would not share them with proxy and client either."""
    return ",".join(map(str, sorted(cpus)[: max(1, len(cpus) - 1)]))


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
