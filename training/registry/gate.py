"""The gate: is a candidate better than who serves and than the wheel's ranker, on requests none was trained on?"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from training.ranking_metrics import kendall_tau_b, resampled
from training.registry.journal import Rival

DoubleArray = npt.NDArray[np.float64]
StrArray = npt.NDArray[np.str_]

_ROUNDS: Final = 300
# tau-b of more rows tells no more, and takes its time in every round of the bootstrap.
_MOST_ROWS: Final = 4_000
_PERCENTILES: Final = (2.5, 97.5)


class Showing(NamedTuple):
    """One ranker on the held-out requests: its scores (n,), and what its order gains in replay, in seconds."""

    name: str
    score: DoubleArray
    gain_s: float


def judge(
    label: DoubleArray, prompt: StrArray, candidate: Showing, rivals: Sequence[Showing], seed: int
) -> tuple[Rival, ...]:
    """Each rival beside the candidate. Better means: tau-b higher beyond chance, and more gained in replay.

    `prompt` tells requests apart: many of one prompt prove no more than it alone.
    """
    return tuple(_beside(label, prompt, candidate, rival, seed) for rival in rivals)


def reason(rivals: Sequence[Rival], candidate_gain_s: float) -> str:
    """In words, why the gate opens or stays shut."""
    for rival in rivals:
        if rival.interval[0] <= 0:
            low, high = rival.interval
            return (
                f"not shown to rank better than the {rival.name}: tau-b {rival.difference:+.3f}, "
                f"95% interval {low:+.3f} to {high:+.3f}"
            )
        if not rival.better:
            return (
                f"ranks better than the {rival.name} (tau-b {rival.difference:+.3f}) but gains no more in replay: "
                f"{candidate_gain_s:.3g} s of mean TTFT, the {rival.name} {rival.gain_s:.3g} s"
            )
    names = " and ".join(rival.name for rival in rivals)
    return f"ranks better than the {names} and gains more in replay"


def difference_interval(
    label: DoubleArray, prompt: StrArray, ours: DoubleArray, theirs: DoubleArray, rng: np.random.Generator
) -> tuple[float, float]:
    """95% interval of the difference in tau-b, by a paired bootstrap of prompts: both see the same drawn rows."""
    differences = []
    for rows in resampled(prompt, rng, _ROUNDS, _MOST_ROWS):
        tau = kendall_tau_b(label[rows], ours[rows])
        differences.append(tau - kendall_tau_b(label[rows], theirs[rows]))
    low, high = np.percentile(differences, _PERCENTILES)
    return float(low), float(high)


def _beside(label: DoubleArray, prompt: StrArray, candidate: Showing, rival: Showing, seed: int) -> Rival:
    tau = kendall_tau_b(label, rival.score)
    rng = np.random.default_rng(seed)
    interval = difference_interval(label, prompt, candidate.score, rival.score, rng)
    return Rival(
        name=rival.name,
        tau_b=tau,
        difference=kendall_tau_b(label, candidate.score) - tau,
        interval=interval,
        gain_s=rival.gain_s,
        better=interval[0] > 0 and candidate.gain_s > rival.gain_s,
    )
