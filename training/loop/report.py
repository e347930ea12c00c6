"""What the loop says: each arm's passes and their mean, shares of the oracle's gain, and the goals."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from predictor.features.extractor import FIXED_NAMES, SELF_NAMES
from predictor.records import TrafficRecord
from training.compare.report import ArmReport
from training.loop.intervals import Between, Interval
from training.loop.saturation import Saturation
from training.ranking_metrics import kendall_tau_b
from training.registry.journal import Decision, Outcome

ORACLE = "oracle-quantile"
RETRAINED = "retrained"
# Of the pace, between passes: more than this is not noise.
_STEADY = 0.1
# And between arms, on the average of their passes.
_ALIKE = 0.05
# There where the model was asked, NaN elsewhere.
_SIGNAL = FIXED_NAMES.index(SELF_NAMES[0])


class Ranked(msgspec.Struct, frozen=True):
    """How well the wheel's or the retrained ranker ordered the measured prompts: tau-b, and pairs for the picture.

    `asked_share`: of the answers, those about which the model was asked in time.
    """

    arm: str
    tau_b: float
    asked_share: float
    predicted_tokens: tuple[float, ...]
    output_tokens: tuple[int, ...]


class Summary(msgspec.Struct, frozen=True):
    """One arm over its passes. `gain_s`: mean TTFT less than FCFS's; `of_oracle`: as a share of the oracle's.

    `throughput`: tokens per second over FCFS's, in passes whose load came as it came and which end when the last
    long answer does. `passes_s`: the mean TTFT of each pass, to show how far they lie apart. `between`: 95%
    intervals of the three before.
    """

    arm: str
    passes_s: tuple[float, ...]
    ttft_mean_s: float
    ttft_p99_s: float
    e2e_mean_s: float
    times_better: float
    gain_s: float
    of_oracle: float | None
    between: Between
    throughput: float
    overtaken_s: float
    failed: int


class LoopReport(msgspec.Struct, frozen=True):
    """build/loop.json. `max_overtake_s` is D, the same in every arm but FCFS; `shuffled` knows nothing.

    `calls`: of all requests, those that programs send (`training.prompts.load_calls`).
    `pace`: tokens per second of each pass while the engine was full, which no order should change.
    `oracle_tau_b`: how well the oracle, who knows the answers of the first pass, ordered those of its own: an engine
    that rounds otherwise in another batch gives others, however greedily it is asked.
    """

    engine: str
    slots: int
    max_tokens: int
    capped_share: float
    load: float
    calls: float
    capacity_per_s: float
    learned_from: int
    requests: int
    max_overtake_s: float
    order: tuple[str, ...]
    summaries: tuple[Summary, ...]
    passes: tuple[ArmReport, ...]
    pace: tuple[float, ...]
    oracle_tau_b: float
    ranked: tuple[Ranked, ...]
    asked_share: float
    saturation: Saturation
    retrain: Decision | None
    seconds: float

    @property
    def unsteady(self) -> str:
        """Which arms cannot be compared with FCFS, and why; empty where the engine kept its pace."""
        moved = max(self.pace) / min(self.pace) - 1
        if moved <= _STEADY:
            return ""
        return (
            f"The engine itself was up to {moved:.0%} faster in one pass than in another "
            f"({', '.join(f'{pace:.0f}' for pace in self.pace)} tokens/s in the order of the passes): something else "
            f"wanted its processor. {self.not_alike}."
        )

    @property
    def not_alike(self) -> str:
        """The arms in whose passes, on average, the engine was faster or slower than in FCFS's."""
        paces: dict[str, list[float]] = {}
        for arm, pace in zip(self.order, self.pace, strict=False):
            paces.setdefault(arm, []).append(pace)
        more = {arm: float(np.mean(own) / np.mean(paces["fcfs"])) - 1 for arm, own in paces.items()}
        apart = ", ".join(f"{arm} ({share:+.0%})" for arm, share in more.items() if abs(share) > _ALIKE)
        if not apart:
            return f"Over its passes each arm had FCFS's pace to within {_ALIKE:.0%}"
        return f"Not to be compared with FCFS, whose passes had another pace: {apart}"

    @property
    def gate(self) -> str:
        """What to say where the gate did not publish what the arm `retrained` serves; empty where it did."""
        if self.retrain is None or self.retrain.outcome is Outcome.PUBLISHED:
            return ""
        return (
            f"The gate did not publish this ranker ({self.retrain.outcome}: {self.retrain.reason}): {RETRAINED} is "
            "the candidate, measured all the same; an installation would go on with the ranker in the wheel."
        )

    def _by_steps(self) -> str:
        if self.saturation.steps_ratio is None or self.saturation.steps_between is None:
            return ""
        low, high = self.saturation.steps_between
        return f", {self.saturation.steps_ratio:.2%} ({low:.2%} to {high:.2%}) by the engine's count of its steps"

    def sentence(self) -> str:
        """The outcome in one sentence, and in another one that this ranker would not serve, if so."""
        arms = {one.arm: one for one in self.summaries}
        fcfs, ours, best = arms["fcfs"], arms[RETRAINED], arms[ORACLE]
        share = (
            "true lengths prove no gain that could be shared"
            if ours.of_oracle is None
            else f"{ours.of_oracle:.0%} ({_shares(ours.between.of_oracle)}) of what true lengths give"
        )
        low, high = ours.between.times_better
        return (
            f"On {self.engine} at {self.load:g}x capacity, {self.calls:.0%} of the requests calls of programs, "
            f"mean TTFT {fcfs.ttft_mean_s:.2f} s -> "
            f"{ours.ttft_mean_s:.2f} s ({ours.times_better:.2f}x, {low:.2f} to {high:.2f}) after learning from "
            f"{self.learned_from} answers; true lengths: {best.times_better:.2f}x; {share}; saturated throughput "
            f"{self.saturation.ratio:.1%} ({_shares(self.saturation.between)}) of the engine's without a proxy"
            f"{self._by_steps()}; "
            f"longest overtaking {ours.overtaken_s:.1f} s of D = {self.max_overtake_s:g} s."
            f"{self.gate and ' '}{self.gate}"
        )


def summarize(passes: Sequence[ArmReport], between: Mapping[str, Between]) -> tuple[Summary, ...]:
    """One summary per arm, in the order in which the arms came first; `between`: the intervals of each."""
    names = list(dict.fromkeys(one.arm for one in passes))
    grouped = {name: [one for one in passes if one.arm == name] for name in names}
    fcfs_s, fcfs_tokens = _mean(grouped["fcfs"], "ttft_mean_s"), _mean(grouped["fcfs"], "tokens_per_s")
    possible_s = fcfs_s - _mean(grouped[ORACLE], "ttft_mean_s")
    summaries = []
    for name, runs in grouped.items():
        ttft_s = _mean(runs, "ttft_mean_s")
        gain_s = fcfs_s - ttft_s
        summaries.append(
            Summary(
                arm=name,
                passes_s=tuple(one.ttft_mean_s for one in runs),
                ttft_mean_s=ttft_s,
                ttft_p99_s=_mean(runs, "ttft_p99_s"),
                e2e_mean_s=_mean(runs, "e2e_mean_s"),
                times_better=fcfs_s / max(ttft_s, 1e-9),
                gain_s=gain_s,
                of_oracle=None if between[name].of_oracle is None else gain_s / possible_s,
                between=between[name],
                throughput=_mean(runs, "tokens_per_s") / max(fcfs_tokens, 1e-9),
                overtaken_s=max(one.overtaken_s for one in runs),
                failed=sum(one.failed for one in runs),
            )
        )
    return tuple(summaries)


def as_json(found: LoopReport) -> dict[str, Any]:
    """The report as a document, its sentences included."""
    document: dict[str, Any] = msgspec.to_builtins(found)
    return document | {"sentence": found.sentence(), "unsteady": found.unsteady, "gate": found.gate}


def ranked_as(arm: str, records: Sequence[TrafficRecord]) -> Ranked:
    """Predictions beside lengths, as the arm's own traffic log has them."""
    told = [one for one in records if one.output_tokens and one.predicted_tokens is not None]
    predicted = np.array([one.predicted_tokens for one in told], dtype=np.float64)
    place = np.array([one.quantile for one in told], dtype=np.float64)
    actual = np.array([one.output_tokens for one in told], dtype=np.float64)
    return Ranked(
        arm,
        kendall_tau_b(actual, place),
        asked_share(told),
        tuple(predicted.tolist()),
        tuple(one.output_tokens for one in told if one.output_tokens),
    )


def asked_share(records: Sequence[TrafficRecord]) -> float:
    """Of these requests, those that went with what the model would say first."""
    signals = [np.frombuffer(one.features, "<f4")[_SIGNAL] for one in records if one.features]
    return float(np.isfinite(signals).sum()) / max(1, len(records))


def _shares(between: Interval | None) -> str:
    return "-" if between is None else f"{between[0]:.0%} to {between[1]:.0%}"


def _mean(runs: Sequence[ArmReport], name: str) -> float:
    return float(np.mean([getattr(one, name) for one in runs]))
