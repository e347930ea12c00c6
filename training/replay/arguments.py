"""The options of `headway replay`, and what is wrong with them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from training.replay.arrivals import Arrivals
from training.replay.engine import AUTO, CHOICES
from training.replay.predictions import Distortion
from training.replay.scene import ORACLE, POLICIES

_DEFAULT_POLICIES: Final = "fcfs,sjf,hrrn,boost,quantile,work,oracle-sjf,oracle-quantile,oracle-work"
_KNOWN: Final = (*POLICIES, *(ORACLE + name for name in POLICIES if name != "fcfs"))
# Requests, below which nothing is said.
FEWEST: Final = 8
# Beyond these memory or days are used up before anything is said.
_MOST: Final = 2_000_000
_MOST_REPLICAS: Final = 1_000
_LEAST_LOAD: Final = 0.001
_MOST_LOAD: Final = 100
# In place of a load; None where loads are numbers.
RECORDED: Final = "recorded"
# Kinds whose one crowd has no load to choose.
_LOADLESS: Final = (Arrivals.BURST,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `headway replay`."""
    _add_traffic(parser.add_argument)
    _add_order(parser.add_argument)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def _add_traffic(add: Callable[..., object]) -> None:
    """What arrives, and what serves it."""
    add(
        "--on",
        required=True,
        metavar="SRC",
        help="sqlite:///log.db, redis://, *.jsonl[.gz], *.parquet, trace *.csv[.gz]",
    )
    add("--engine-profile", default=AUTO, metavar="NAME", help=CHOICES)
    add("--replicas", type=int, default=1, help="how many such engines")
    add("--window", type=int, help="requests at each engine at once; default: its slots")
    add(
        "--mode",
        choices=("hybrid", "hold"),
        default="hybrid",
        help="hybrid: keys go to the engine as priorities",
    )
    add(
        "--arrivals",
        choices=[kind.value for kind in Arrivals],
        help="default: trace where times are recorded, else poisson",
    )
    add(
        "--loads",
        default="0.9,1.0,1.1",
        help=f"fractions of the measured capacity, or '{RECORDED}': times as they are; closed: clients per slot",
    )
    add(
        "--rows",
        choices=("heldout", "all"),
        default="heldout",
        help="heldout: where rows have a split, only those that no ranker was trained on",
    )
    add("--requests", type=int, default=5_000, help="how many; a trace as recorded is never repeated")


def _add_order(add: Callable[..., object]) -> None:
    """What orders it, and what is looked for."""
    add("--policies", default=_DEFAULT_POLICIES, help=f"comma-separated, of {', '.join(_KNOWN)}")
    add(
        "--max-overtake",
        type=float,
        metavar="S",
        help="D; default: 2 x p99 wait under FCFS, within --max-extra-delay",
    )
    add("--lane-share", type=float, default=0.0, help="share of dispatches that go to the oldest waiter")
    add("--artifact", type=Path, metavar="DIR", help="rank the rows' text or features with it")
    add(
        "--tau",
        type=float,
        default=0.6,
        help="Kendall tau of the made-up ranker for rows without text or predictions",
    )
    add(
        "--predictions",
        choices=[how.value for how in Distortion],
        default="none",
        help="spoil them, to see what it costs",
    )
    add("--tune", action="store_true", help="find policy, D and lane share at the highest of --loads")
    add(
        "--max-extra-delay",
        type=float,
        metavar="S",
        help="X: the most that anybody may wait longer than under FCFS",
    )
    add("--out", type=Path, metavar="FILE", help="with --tune: write the choice and the frontier as JSON")


def checked(args: argparse.Namespace) -> tuple[list[str], list[float | None]]:
    """Policies and loads. ValueError where an argument makes no sense."""
    policies = [name.strip() for name in args.policies.split(",") if name.strip()]
    unknown = [name for name in policies if name not in _KNOWN]
    if unknown or not policies:
        raise ValueError(f"unknown policy '{''.join(unknown[:1])}': choose from {', '.join(_KNOWN)}")
    loads = _loads(args.loads)
    complaints: tuple[tuple[bool, str], ...] = (
        (not FEWEST <= args.requests <= _MOST, f"--requests must be from {FEWEST} to {_MOST}"),
        (args.seed < 0, "--seed must be 0 or more"),
        (not 1 <= args.replicas <= _MOST_REPLICAS, f"--replicas must be from 1 to {_MOST_REPLICAS}"),
        (args.window is not None and args.window < 1, "--window must be at least 1"),
        (not 0 <= args.lane_share <= 1, "--lane-share must be between 0 and 1"),
        (not 0 <= args.tau <= 1, "--tau must be between 0 and 1"),
        (not _is_time(args.max_overtake), "--max-overtake must be a number of seconds, 0 or more"),
        (not _is_time(args.max_extra_delay), "--max-extra-delay must be a number of seconds, 0 or more"),
        (args.out is not None and not args.tune, "--out goes with --tune"),
        (
            None in loads and args.arrivals not in (None, Arrivals.TRACE),
            f"--loads {RECORDED} goes with --arrivals {Arrivals.TRACE}",
        ),
    )
    for wrong, text in complaints:
        if wrong:
            raise ValueError(text)
    return policies, loads[:1] if args.arrivals in _LOADLESS else loads


def _is_time(value: float | None) -> bool:
    return value is None or 0 <= value < 1e9


def _loads(text: str) -> list[float | None]:
    try:
        loads = [None if part.strip() == RECORDED else float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--loads: '{text}' is not a list of numbers, such as 0.9,1.0") from None
    if not all(load is None or _LEAST_LOAD <= load <= _MOST_LOAD for load in loads):
        raise ValueError(f"--loads: each must be from {_LEAST_LOAD} to {_MOST_LOAD}")
    return loads
