"""`headway retrain`: the loop once, beside a serving proxy or without one."""

import argparse
import os
import sys
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from predictor.errors import PredictorError
from training.profiles import PROFILES
from training.progress import show_progress
from training.registry.journal import BusyError, Decision
from training.registry.place import add_place
from training.registry.shared import Place, place_of, shared
from training.retrain.cycle import Plan, retrain
from training.retrain.log import FEWEST_ROWS
from training.sources import DataError

_WIDTH: Final = 110
_FEWEST_REPLAYED: Final = 100
_MOST_REPLAYED: Final = 1_000_000
_NICEST: Final = 19
_LARGEST_SEED: Final = (1 << 31) - 1
_NOTHING_NEW: Final = (
    "Nothing new in the traffic log since the last decision: nothing to do (but see --force)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `headway retrain`."""
    add = parser.add_argument
    add_place(parser)
    add("--from", dest="source", metavar="SRC", help="traffic log; default: the one that serve writes")
    add("--rows", type=int, default=30_000, help="latest answers to learn from and to judge on")
    add("--min-rows", type=int, default=FEWEST_ROWS, help="fewer answers than this are not learned from")
    add(
        "--engine-profile", default="auto", metavar="NAME",
        help=f"auto (what the log shows), {', '.join(sorted(PROFILES))}",
    )  # fmt: skip
    add(
        "--replay-requests", type=int, default=1_500, metavar="N",
        help="requests in each replay that tunes and judges; more where that is less than 12 per slot of the engine",
    )  # fmt: skip
    add("--max-extra-delay", type=float, metavar="S", help="the most anybody may wait longer than under FCFS")
    add("--shadow", action="store_true", help="let a better ranker only be watched, not serve")
    add("--force", action="store_true", help="even where the log holds nothing new")
    add("--nice", type=int, default=0, metavar="N", help="lower this process's priority by N")
    add("--seed", type=int, default=0)
    add("--brief", action="store_true", help="one line, for logs")
    add("--json", action="store_true", help="print one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Retrain and report; where it could not, one line on stderr says why, and nothing has changed."""
    try:
        place = place_of(args)
        args.state = place.state
        plan = plan_of(args, place)
        os.nice(args.nice)
        with show_progress() as steps, shared(place):
            decision = retrain(plan, steps)
    except (DataError, PredictorError, BusyError, ValueError) as error:
        print(f"headway retrain: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except OSError as error:
        where, why = error.filename or args.state, error.strerror or error
        print(f"headway retrain: {where}: {why}; who served still serves", file=sys.stderr)
        return 1
    if args.json:
        print(msgspec.json.encode({"decision": decision}).decode())
    elif args.brief:
        print(
            _NOTHING_NEW
            if decision is None
            else f"{decision.outcome.value} {decision.artifact}: {decision.reason}"
        )
    else:
        show(decision)
    return 0


def plan_of(args: argparse.Namespace, place: Place) -> Plan:
    """The plan that the arguments make for a registry and its log. ValueError where one of them makes no sense."""
    if args.rows < 1 or args.min_rows < 20:
        raise ValueError("--rows must be at least 1, --min-rows at least 20")
    if not _FEWEST_REPLAYED <= args.replay_requests <= _MOST_REPLAYED:
        raise ValueError(f"--replay-requests must be from {_FEWEST_REPLAYED} to {_MOST_REPLAYED}")
    if args.max_extra_delay is not None and not 0 <= args.max_extra_delay < 1e9:
        raise ValueError("--max-extra-delay must be a number of seconds, 0 or more")
    if not 0 <= args.nice <= _NICEST:
        raise ValueError(f"--nice must be from 0 to {_NICEST}")
    if not 0 <= args.seed <= _LARGEST_SEED:
        raise ValueError(f"--seed must be from 0 to {_LARGEST_SEED}")
    return Plan(
        state=place.state,
        source=args.source or place.source,
        most_rows=args.rows,
        fewest_rows=args.min_rows,
        profile=args.engine_profile,
        replayed=args.replay_requests,
        extra_delay_s=args.max_extra_delay,
        seed=args.seed,
        force=args.force,
        shadow=args.shadow,
    )


def show(decision: Decision | None) -> None:
    """The decision, with its figures."""
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    if decision is None:
        console.print(_NOTHING_NEW)
        return
    console.print(f"{decision.outcome.value}: {decision.reason}.", style="bold")
    console.print(
        f"artifact {decision.artifact}, {decision.trained_on} answers learned from, {decision.seconds} s"
    )
    if decision.figures is not None:
        console.print(_figures(decision))
    if decision.order is not None:
        order = decision.order
        console.print(f"order: {order.policy}, D {order.max_overtake_s:g} s, lane {order.lane_share:g}")
        console.print(order.verdict)


def _figures(decision: Decision) -> Table:
    table = Table(title=f"{decision.held_out} held-out answers", title_justify="left")
    for column in ("ranker", "tau-b", "candidate's less this", "replayed mean TTFT", "better"):
        table.add_column(column, justify="left" if column == "ranker" else "right")
    figures = decision.figures
    assert figures is not None
    low, high = figures.interval
    table.add_row(
        "candidate", f"{figures.tau_b:.3f} ({low:.3f} to {high:.3f})", "", _ttft(decision, figures.gain_s), ""
    )
    for rival in decision.rivals:
        low, high = rival.interval
        difference = f"{rival.difference:+.3f} ({low:+.3f} to {high:+.3f})"
        beaten = "beaten" if rival.better else "not beaten"
        table.add_row(rival.name, f"{rival.tau_b:.3f}", difference, _ttft(decision, rival.gain_s), beaten)
    table.add_row("FCFS", "", "", _ttft(decision, 0.0), "")
    return table


def _ttft(decision: Decision, gain_s: float) -> str:
    fcfs_s = decision.figures.fcfs_ttft_s if decision.figures else 0.0
    return f"{fcfs_s - gain_s:.3g} s"
