"""`headway replay`: what each order would have given this traffic, and which D and lane share suit it."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from predictor.errors import PredictorError
from training.replay.arrivals import Arrivals, draw_arrivals, peak_load
from training.replay.engine import AUTO, CHOICES, profile_of
from training.replay.outlook import Advance, Outlook, Setting, default_overtake_s, look, runs_of
from training.replay.predictions import Distortion, distorted, ranked
from training.replay.scene import ORACLE, POLICIES, Knobs, Scene, capacity_per_s, jobs_of
from training.replay.show import console, show_outlook, show_tuning
from training.replay.simulate import Pool
from training.replay.tune import WHOLE_GRID, Limits, Tuning, tune
from training.replay.verdict import logged_wait
from training.replay.workload import LATEST, Workload, read_workload
from training.sources import DataError

_DEFAULT_POLICIES: Final = "fcfs,sjf,hrrn,boost,quantile,work,oracle-sjf,oracle-quantile,oracle-work"
_KNOWN: Final = (*POLICIES, *(ORACLE + name for name in POLICIES if name != "fcfs"))
_FEWEST: Final = 8
# Kinds whose one crowd has no load to choose.
_LOADLESS: Final = (Arrivals.BURST,)


class Replay(msgspec.Struct, frozen=True):
    """The whole report; `tuning` with --tune only, `outlooks` (one per load) without."""

    source: str
    engine_profile: str
    replicas: int
    requests: int
    skipped_rows: int
    capacity_per_s: float
    predictions: str
    tau_b: float
    outlooks: tuple[Outlook, ...] = ()
    tuning: Tuning | None = None


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
    add("--loads", default="0.9,1.0,1.1", help="fractions of the measured capacity; closed: clients per slot")
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
    add("--tune", action="store_true", help="find policy, D and lane share; uses the highest of --loads")
    add(
        "--max-extra-delay",
        type=float,
        metavar="S",
        help="X: the most that anybody may wait longer than under FCFS",
    )
    add("--out", type=Path, metavar="FILE", help="with --tune: write the choice and the frontier as JSON")


def run(args: argparse.Namespace) -> int:
    """Replay and report; 2 and one line on stderr where the arguments or the data are unusable."""
    try:
        report = replay(args)
        if args.out is not None and report.tuning is not None:
            args.out.write_bytes(msgspec.json.format(msgspec.json.encode(report.tuning), indent=1) + b"\n")
    except (DataError, PredictorError, ValueError) as error:
        print(f"headway replay: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"headway replay: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    _show(report, as_json=args.json)
    return 0


def replay(args: argparse.Namespace) -> Replay:
    """Everything that was asked for. Raises DataError, PredictorError, ValueError."""
    policies, loads = _checked(args)
    stage = _Stage(args)
    if args.tune:
        return stage.report(tuning=stage.tune(max(loads)))
    return stage.report(outlooks=tuple(stage.look(load, policies) for load in loads))


class _Stage:
    """What all loads share: workload, engines, capacity, predictions."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._pool = Pool(profile_of(args.engine_profile, args.on), args.replicas, args.window)
        found = read_workload(args.on, max(LATEST, args.requests))
        recorded = (found if args.rows == "all" else found.heldout()).fitting(self._pool.profile)
        self._kind = _kind_of(args.arrivals, recorded)
        self._workload = recorded.sized(
            args.requests, repeat=self._kind is not Arrivals.TRACE, rng=self._rng()
        )
        if len(self._workload) < _FEWEST:
            raise DataError(
                f"{recorded.source}: {len(self._workload)} usable rows; a replay needs at least {_FEWEST}"
            )
        self._lengths = self._workload.output_tokens.astype(np.float64)
        real = ranked(self._workload, args.artifact, args.tau, self._rng())
        self._ranked = distorted(real, self._lengths, Distortion(args.predictions), self._rng())
        self._capacity_per_s = capacity_per_s(self._pool, self._workload, self._rng())

    def look(self, load: float, policies: list[str]) -> Outlook:
        """One load, all policies."""
        scene, setting = self._scene(load)
        knobs = Knobs(self._overtake_s(scene, setting), self._args.lane_share)
        with _progress(f"load {load:g}", runs_of(policies)) as advance:
            return look(scene, setting, policies, knobs, advance)

    def tune(self, load: float) -> Tuning:
        """Search around the D that one load suggests."""
        scene, setting = self._scene(load)
        reverse = distorted(self._ranked, self._lengths, Distortion.REVERSED, self._rng())
        asked_s = self._args.max_extra_delay
        limits = Limits(scene.fcfs_figures.wait_s.p99 if asked_s is None else asked_s)
        with _progress("tuning", WHOLE_GRID.runs()) as advance:
            start_s = self._overtake_s(scene, setting)
            return tune(scene, reverse, setting, start_s=start_s, limits=limits, advance=advance)

    def report(self, **parts: Any) -> Replay:
        """The report, with what was found."""
        return Replay(
            source=self._workload.source,
            engine_profile=self._pool.profile.name,
            replicas=self._pool.replicas,
            requests=len(self._workload),
            skipped_rows=self._workload.skipped,
            capacity_per_s=self._capacity_per_s,
            predictions=self._ranked.by,
            tau_b=self._ranked.tau_b,
            **parts,
        )

    def _rng(self) -> np.random.Generator:
        # A fresh one each time, so that no draw depends on which others were made.
        return np.random.default_rng(self._args.seed)

    def _scene(self, load: float) -> tuple[Scene, Setting]:
        clients, at_s, peak = 0, np.zeros(0), 1.0
        if self._kind is Arrivals.CLOSED:
            clients = max(1, round(load * self._pool.replicas * self._pool.profile.max_num_seqs))
        else:
            at_s = draw_arrivals(
                self._kind,
                len(self._workload),
                load=load,
                capacity_per_s=self._capacity_per_s,
                rng=self._rng(),
                recorded_s=self._workload.at_s,
            )
            peak = peak_load(at_s, self._capacity_per_s)
        jobs = jobs_of(self._workload, at_s, clients)
        scene = Scene(self._pool, jobs, self._ranked, hybrid=self._args.mode == "hybrid")
        waits = logged_wait((item.wait_s, item.e2e_s) for item in self._workload.items)
        return scene, Setting(self._kind.value, load, self._capacity_per_s, peak, waits)

    def _overtake_s(self, scene: Scene, setting: Setting) -> float:
        if self._args.max_overtake is not None:
            return float(self._args.max_overtake)
        return default_overtake_s(scene.fcfs_figures, setting.peak_load, self._args.max_extra_delay)


def _kind_of(asked: str | None, workload: Workload) -> Arrivals:
    if asked is None:
        return Arrivals.POISSON if workload.at_s is None else Arrivals.TRACE
    if asked == Arrivals.TRACE and workload.at_s is None:
        raise DataError(f"{workload.source}: no arrival times are recorded; choose other --arrivals")
    return Arrivals(asked)


def _checked(args: argparse.Namespace) -> tuple[list[str], list[float]]:
    """Policies and loads. ValueError where an argument makes no sense."""
    policies = [name.strip() for name in args.policies.split(",") if name.strip()]
    unknown = [name for name in policies if name not in _KNOWN]
    if unknown or not policies:
        raise ValueError(f"unknown policy '{''.join(unknown[:1])}': choose from {', '.join(_KNOWN)}")
    loads = _loads(args.loads)
    complaints: tuple[tuple[bool, str], ...] = (
        (args.requests < _FEWEST, f"--requests must be at least {_FEWEST}"),
        (args.replicas < 1, "--replicas must be at least 1"),
        (args.window is not None and args.window < 1, "--window must be at least 1"),
        (not 0 <= args.lane_share <= 1, "--lane-share must be between 0 and 1"),
        (not 0 <= args.tau <= 1, "--tau must be between 0 and 1"),
        (not _is_time(args.max_overtake), "--max-overtake must be a number of seconds, 0 or more"),
        (not _is_time(args.max_extra_delay), "--max-extra-delay must be a number of seconds, 0 or more"),
        (args.out is not None and not args.tune, "--out goes with --tune"),
    )
    for wrong, text in complaints:
        if wrong:
            raise ValueError(text)
    return policies, loads[:1] if args.arrivals in _LOADLESS else loads


def _is_time(value: float | None) -> bool:
    return value is None or 0 <= value < 1e9


def _loads(text: str) -> list[float]:
    try:
        loads = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--loads: '{text}' is not a list of numbers, such as 0.9,1.0") from None
    if not all(0 < load <= 100 for load in loads):
        raise ValueError("--loads: each must be above 0 and at most 100")
    return loads


@contextmanager
def _progress(title: str, total: int) -> Iterator[Advance]:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        begun: list[str] = []

        def advance(label: str) -> None:
            progress.update(task, completed=len(begun), description=f"{title}: {label}")
            begun.append(label)

        yield advance


def _show(report: Replay, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(report).decode())
        return
    to = console()
    skipped = f", {report.skipped_rows} rows skipped" if report.skipped_rows else ""
    speed = f"which serves {report.capacity_per_s:.2f} of them a second"
    engines = f"{report.replicas} x {report.engine_profile}"
    to.print(f"{report.source}: {report.requests} requests{skipped} on {engines}, {speed}.")
    to.print(f"Predictions: {report.predictions} (tau-b {report.tau_b:.2f}).\n")
    for outlook in report.outlooks:
        show_outlook(to, outlook)
    if report.tuning is not None:
        show_tuning(to, report.tuning)
