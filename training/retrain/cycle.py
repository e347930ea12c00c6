"""The loop once: read the log, train, tune by replay, hold the gate, publish. Each step in the order it happens."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from predictor.artifact import Artifact, load_artifact
from predictor.errors import PredictorError
from predictor.features.extractor import FIXED_NAMES
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from predictor.order import Order
from predictor.prediction import Prediction
from predictor.registry import Role, artifact_directory, read_pointer
from training.bundle import Bundle, write_bundle
from training.dataset import Dataset
from training.evaluate import score_rows, vectors
from training.profiles import EngineProfile, profile_named
from training.progress import Steps
from training.ranking_metrics import bootstrap_interval, kendall_tau_b
from training.registry.gate import Showing, judge, reason
from training.registry.journal import (
    RETRAIN,
    Decision,
    Figures,
    Outcome,
    locked,
    read_decisions,
    worked_through,
)
from training.registry.store import adopt, publish, staging
from training.replay.tune import Tuning
from training.retrain.crowd import Crowd
from training.retrain.engine_seen import profile_seen
from training.retrain.log import FEWEST_ROWS, Log, read_log
from training.sources import fingerprint, shown
from training.train import train

DoubleArray = npt.NDArray[np.float64]

LOCK: Final = "retrain.lock"
_OBJECTIVE: Final = "cross_entropy"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What `headway retrain` was asked for. `profile` is a name or `auto`; `source` a traffic log."""

    state: Path
    source: str
    most_rows: int = 30_000
    fewest_rows: int = FEWEST_ROWS
    profile: str = "auto"
    replayed: int = 1_500
    extra_delay_s: float | None = None
    seed: int = 0
    force: bool = False
    shadow: bool = False


class Known(NamedTuple):
    """A ranker on the held-out requests: its predictions and scores, both in their order."""

    predictions: list[Prediction]
    score: DoubleArray


def retrain(plan: Plan, steps: Steps) -> Decision | None:
    """Run the loop once; None where the log holds nothing that was not looked at before.

    Raises DataError, PredictorError, BusyError or OSError; until the very end nothing has changed then.
    """
    started = time.monotonic()
    with locked(plan.state, LOCK, wait=False):
        log = read_log(plan.source, plan.most_rows, fewest=plan.fewest_rows, advance=steps.stage("reading"))
        champion_id = read_pointer(plan.state, Role.CHAMPION)
        if not plan.force and log.newest in worked_through(read_decisions(plan.state), champion_id):
            return None
        rivals = load_rivals(plan.state, champion_id)
        bundle, notes = train(
            log.train, rivals[0].head, objective=_OBJECTIVE, seed=plan.seed, steps=steps, weight=log.weight
        )
        notes |= {"source": shown(plan.source), "fingerprint": fingerprint(plan.source)}
        notes |= {"rows_lost": log.lost, "newest": log.newest}
        with staging(plan.state) as aside:
            made = _Candidate(bundle, aside / "retrained", notes)
            decision = _weigh(plan, log, rivals, made, steps)
            decision = msgspec.structs.replace(
                decision,
                artifact=adopt(plan.state, made.directory),
                replaced=champion_id,
                seconds=round(time.monotonic() - started, 1),
            )
        return publish(plan.state, decision, expected=champion_id)


def weigh_by_hand(plan: Plan, artifact: Artifact) -> Decision:
    """Hold the gate for an artifact that somebody else has trained; what it brings of an order is not touched.

    Raises DataError or PredictorError where there is nothing to judge on.
    """
    log = read_log(plan.source, plan.most_rows, fewest=plan.fewest_rows)
    rivals = load_rivals(plan.state, read_pointer(plan.state, Role.CHAMPION))
    crowd = Crowd(log.records, _profile(plan, log), plan.replayed, plan.seed)
    ours = see(artifact, log.held)
    scene = crowd.scene(ours.predictions, "the candidate")
    policy, max_overtake_s = "quantile", 2 * scene.fcfs_figures.wait_s.p99
    if artifact.metadata.order is not None and artifact.metadata.order.policy != "fcfs":
        policy, max_overtake_s = artifact.metadata.order.policy, artifact.metadata.order.max_overtake_s
    trial = _Trial(log, crowd, policy, max_overtake_s, plan.seed)
    return msgspec.structs.replace(
        trial.decide(ours, rivals), action="publish", order=artifact.metadata.order
    )


def load_rivals(state: Path, champion_id: str | None) -> list[Artifact]:
    """Champion and default; the default alone where it serves, or where the champion cannot be loaded."""
    default = load_artifact(DEFAULT_ARTIFACT)
    if champion_id is None:
        return [default]
    try:
        return [load_artifact(artifact_directory(state, champion_id)), default]
    except PredictorError:
        # Serving fell back to the default for the same reason.
        return [default]


class _Candidate(NamedTuple):
    """What was trained and where it is written, twice: replay needs it whole, and then has its word to add."""

    bundle: Bundle
    directory: Path
    notes: dict[str, Any]

    def write(self, order: Order | None = None) -> Artifact:
        write_bundle(self.bundle, self.directory, self.notes, order=order)
        return load_artifact(self.directory)


def _weigh(plan: Plan, log: Log, rivals: Sequence[Artifact], made: _Candidate, steps: Steps) -> Decision:
    """Tune by replay, write the candidate with the choice, and let the gate decide."""
    profile = _profile(plan, log)
    crowd = Crowd(log.records, profile, plan.replayed, plan.seed)
    ours = see(made.write(), log.held)
    scene = crowd.scene(ours.predictions, "the candidate")
    advance = steps.stage("tuning", crowd.runs_to_tune)
    tuning = crowd.tune(scene, plan.extra_delay_s, lambda _: advance())
    order = crowd.order(tuning, ours.predictions, _characters(log.held))
    made.notes["engine_profile"] = profile.name
    made.write(order)
    trial = _Trial(log, crowd, *_compared_under(tuning), plan.seed)
    decision = trial.decide(ours, rivals)
    if plan.shadow and decision.outcome is Outcome.PUBLISHED:
        return msgspec.structs.replace(decision, outcome=Outcome.SHADOWED, order=order)
    return msgspec.structs.replace(decision, order=order)


class _Trial(NamedTuple):
    """All rankers on the same held-out requests, in the same replay, under the same policy and D."""

    log: Log
    crowd: Crowd
    policy: str
    max_overtake_s: float
    seed: int

    def decide(self, ours: Known, rivals: Sequence[Artifact]) -> Decision:
        held = self.log.held
        mine = self._showing("candidate", ours)
        theirs = [self._showing(*one) for one in _named(rivals, held)]
        judged = judge(held.label, held.prompt, mine, theirs, self.seed)
        passed = all(rival.better for rival in judged)
        rng = np.random.default_rng(self.seed)
        fcfs = self.crowd.scene(ours.predictions, "candidate").fcfs_figures
        return Decision(
            action=RETRAIN,
            outcome=Outcome.PUBLISHED if passed else Outcome.REFUSED,
            reason=reason(judged, mine.gain_s),
            trained_on=len(self.log.train),
            held_out=len(held),
            newest=self.log.newest,
            figures=Figures(
                tau_b=kendall_tau_b(held.label, ours.score),
                interval=bootstrap_interval(held.label, ours.score, held.prompt, rng),
                fcfs_ttft_s=fcfs.ttft_s.mean,
                gain_s=mine.gain_s,
            ),
            rivals=judged,
        )

    def _showing(self, name: str, known: Known) -> Showing:
        scene = self.crowd.scene(known.predictions, name)
        return Showing(name, known.score, self.crowd.gain_s(scene, self.policy, self.max_overtake_s))


def see(artifact: Artifact, held: Dataset) -> Known:
    """What an artifact says of the held-out requests, by the very code that serves."""
    matrix = vectors(artifact, held)
    return Known([artifact.predict(row) for row in matrix], score_rows(artifact, matrix))


def _named(rivals: Sequence[Artifact], held: Dataset) -> list[tuple[str, Known]]:
    names = ["champion", "default"] if len(rivals) > 1 else ["default"]
    return [(name, see(one, held)) for name, one in zip(names, rivals, strict=True)]


def _profile(plan: Plan, log: Log) -> EngineProfile:
    return profile_seen([*log.older, *log.records]) if plan.profile == "auto" else profile_named(plan.profile)


def _compared_under(tuning: Tuning) -> tuple[str, float]:
    """The order that all rankers are compared under: the chosen one, or the plain one where FCFS was chosen."""
    if tuning.policy == "fcfs":
        return "quantile", tuning.start_overtake_s
    return tuning.policy, tuning.choice.max_overtake_s


def _characters(held: Dataset) -> DoubleArray:
    column = held.fixed[:, FIXED_NAMES.index("size.total")]
    return np.expm1(np.nan_to_num(column.astype(np.float64)))
