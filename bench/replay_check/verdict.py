"""How far a replay is from what an engine did: order of completion, order of policies, tails."""

import itertools
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from bench.replay_check.client import Seen
from training.ranking_metrics import kendall_tau_b
from training.replay.simulate import Run

_APART: Final = 0.05
_WINDOW_S: Final = 4.0
# Less than a full batch brings would tell the pace of a small one.
_FEWEST_GAPS: Final = 400

DoubleArray = npt.NDArray[np.float64]


class Times(msgspec.Struct, frozen=True):
    """Seconds."""

    ttft_mean: float
    ttft_p99: float
    e2e_mean: float
    e2e_p99: float

    @classmethod
    def of(cls, ttft_s: DoubleArray, e2e_s: DoubleArray) -> "Times":
        """Of at least one request."""
        return cls(
            float(ttft_s.mean()),
            float(np.quantile(ttft_s, 0.99)),
            float(e2e_s.mean()),
            float(np.quantile(e2e_s, 0.99)),
        )


class Checked(msgspec.Struct, frozen=True):
    """One policy, live and replayed. `completion_tau`: Kendall's tau-b of the two orders of completion.

    `pace`: how many times as long as by the profile the engine's iterations took in this arm, which the replay was
    told; `moved`: by how much its slowest few seconds were slower than its quickest, which it was not.
    """

    policy: str
    live: Times
    replayed: Times
    completion_tau: float
    pace: float
    moved: float

    @property
    def p99_off(self) -> float:
        """By which share the replayed p99 of TTFT or E2E is off, the worse of the two."""
        ttft = self.replayed.ttft_p99 / self.live.ttft_p99
        e2e = self.replayed.e2e_p99 / self.live.e2e_p99
        return max(abs(ttft - 1), abs(e2e - 1))


def check(policy: str, seen: Sequence[Seen], run: Run, pace: float = 1.0) -> Checked:
    """The same requests in the same order, on the engine and replayed."""
    sent, first, end = (
        np.array([getattr(one, name) for one in seen]) for name in ("sent_s", "first_s", "end_s")
    )
    return Checked(
        policy,
        Times.of(first - sent, end - sent),
        Times.of(run.ttft_s, run.e2e_s),
        kendall_tau_b(end, run.end_s),
        pace,
        moved(seen),
    )


def moved(seen: Sequence[Seen]) -> float:
    """How much longer a token took in the slowest few seconds than in the quickest; 0 where too little came."""
    gaps = np.concatenate([np.diff(one.chunks_s) for one in seen] or [np.zeros(0)])
    when = np.concatenate([np.array(one.chunks_s[1:]) for one in seen] or [np.zeros(0)])
    window = (when // _WINDOW_S).astype(int)
    medians = [
        np.median(gaps[window == one]) for one in np.unique(window) if (window == one).sum() >= _FEWEST_GAPS
    ]
    return float(max(medians) / min(medians) - 1) if len(medians) > 1 else 0.0


def disagree(checked: Sequence[Checked]) -> list[tuple[str, str]]:
    """Pairs of policies that replay puts in the wrong order by mean TTFT. Pairs that lie so close together that
    two runs of the same engine differ as much have no order."""
    found = []
    for one, other in itertools.combinations(checked, 2):
        live = one.live.ttft_mean / other.live.ttft_mean
        replayed = one.replayed.ttft_mean / other.replayed.ttft_mean
        if min(abs(live - 1), abs(replayed - 1)) > _APART and (live > 1) != (replayed > 1):
            found.append((one.policy, other.policy))
    return found


def goals(checked: Sequence[Checked]) -> dict[str, bool]:
    """What is asked of a replay: completion order, ranking of policies, tails."""
    return {
        "completion tau >= 0.95": all(one.completion_tau >= 0.95 for one in checked),
        "same ranking of policies": not disagree(checked),
        "p99 within 25%": all(one.p99_off <= 0.25 for one in checked),
    }
