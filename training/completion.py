"""The bias that short-first scheduling leaves in a log of answers, undone by weights."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]

_BINS: Final = 10
# No request stands for more than so many that were lost: a bin with few survivors must not rule the fit.
_MOST_WEIGHT: Final = 4.0
# Of those who came so long ago, nearly all have ended.
_NEARLY_ALL: Final = 0.99


def completion_weights(answered: DoubleArray, lost: DoubleArray) -> DoubleArray:
    """Inverse probability of having been answered, by the place predicted at arrival; mean 1.

    Short-first lets those predicted long wait longest, so more of them expire or hang up: a log of answers
    holds too few of them. Who was answered stands for who was not, among those predicted alike. Answers cut at
    their own max_tokens need no such care: what the queue is ordered by is what an answer will occupy, and the
    cap binds that too, so the cap is their length, and equal caps are ties.
    """
    bins = np.linspace(0, 1, _BINS + 1)[1:-1]
    place = np.digitize(answered, bins)
    there = np.bincount(place[np.isfinite(answered)], minlength=_BINS)
    gone = np.bincount(np.digitize(lost[np.isfinite(lost)], bins), minlength=_BINS)
    weight = np.minimum(_MOST_WEIGHT, (there + gone + 1) / (there + 1))[place]
    weight[np.isnan(answered)] = 1.0
    return np.asarray(weight / weight.mean(), dtype=np.float64)


def long_over(known: Sequence[tuple[float, float | None]], now_s: float) -> list[bool]:
    """Which answers, oldest first, are to requests that came so long ago that nearly all who came then have ended.

    `known`: when each came, and seconds until its end. Of later ones only the short have ended that were predicted
    short. How long it takes the older half says, of the newer one the long are missing; all pass where that would
    leave less than half.
    """
    took_s = [e2e_s for _, e2e_s in known[: len(known) // 2] if e2e_s is not None]
    until_s = now_s - float(np.quantile(took_s, _NEARLY_ALL)) if took_s else now_s
    over = [at_s <= until_s for at_s, _ in known]
    return over if 2 * sum(over) >= len(over) else [True] * len(over)
