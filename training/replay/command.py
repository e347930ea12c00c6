"""`headway replay`: what each order would have given this traffic, and which D and lane share suit it."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from predictor.errors import PredictorError
from training.replay.arguments import FEWEST, RECORDED, add_arguments, checked
from training.replay.arrivals import Arrivals, draw_arrivals, peak_load
from training.replay.engine import profile_of
from training.replay.outlook import Advance, Outlook, Setting, default_overtake_s, look, runs_of
from training.replay.predictions import Distortion, distorted, ranked
from training.replay.scene import Knobs, Scene, capacity_per_s, jobs_of
from training.replay.show import console, show_outlook, show_tuning
from training.replay.simulate import Pool
from training.replay.tune import WHOLE_GRID, Limits, Tuning, tune, with_recorded
from training.replay.verdict import logged_wait
from training.replay.workload import LATEST, Workload, read_workload
from training.sources import DataError

__all__ = ["add_arguments", "run"]


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


def run(args: argparse.Namespace) -> int:
    """Replay and report; one line on stderr where the arguments (2) or the data (1) are unusable."""
    try:
        report = replay(args)
    except (DataError, PredictorError, ValueError) as error:
        print(f"headway replay: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except OSError as error:
        print(f"headway replay: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    _show(report, as_json=args.json)
    return 0 if args.out is None else _write(report, args.out)


def _write(report: Replay, path: Path) -> int:
    """After the report was shown: what took minutes to find is not lost to a disk that refuses it."""
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report.tuning), indent=1) + b"\n")
    except OSError as error:
        print(f"headway replay: cannot write {path}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def replay(args: argparse.Namespace) -> Replay:
    """Everything that was asked for. Raises DataError, PredictorError, ValueError."""
    policies, loads = checked(args)
    stage = _Stage(args)
    if args.tune:
        return stage.report(tuning=stage.tune(max(loads, key=lambda load: load or 0.0)))
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
        if len(self._workload) < FEWEST:
            raise DataError(
                f"{recorded.source}: {len(self._workload)} usable rows; a replay needs at least {FEWEST}"
            )
        self._lengths = self._workload.output_tokens.astype(np.float64)
        real = ranked(self._workload, args.artifact, args.tau, self._rng())
        self._ranked = distorted(real, self._lengths, Distortion(args.predictions), self._rng())
        self._capacity_per_s = capacity_per_s(self._pool, self._workload, self._rng())

    def look(self, load: float | None, policies: list[str]) -> Outlook:
        """One load, all policies; None: as recorded."""
        scene, setting = self._scene(load)
        knobs = Knobs(self._overtake_s(scene, setting), self._args.lane_share)
        with _progress(f"load {setting.load:.3g}", runs_of(policies)) as advance:
            return look(scene, setting, policies, knobs, advance)

    def tune(self, load: float | None) -> Tuning:
        """Search around the D that one load suggests; what is chosen is played on the recorded times too."""
        tuning = self._tune(load)
        if load is None or self._kind is not Arrivals.TRACE:
            return tuning
        return with_recorded(tuning, *self._scene(None))

    def _tune(self, load: float | None) -> Tuning:
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

    def _scene(self, load: float | None) -> tuple[Scene, Setting]:
        clients, at_s, peak = 0, np.zeros(0), 1.0
        load = self._recorded_load() if load is None else load
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

    def _recorded_load(self) -> float:
        """What the recorded times ask of these engines. DataError where none are recorded."""
        at_s = self._workload.at_s
        if at_s is None:
            raise DataError(f"{self._workload.source}: --loads {RECORDED} goes with recorded arrival times")
        return len(at_s) / float(at_s[-1] - at_s[0]) / self._capacity_per_s

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


@contextmanager
def _progress(title: str, total: int) -> Iterator[Advance]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
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
