"""Passes there and back again: two of each arm make a block, in which what drifts evenly cancels."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def added(own: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Mean over the blocks of how much more `own` is than `base`, and its 95% t interval.

    Both hold two passes per block, in order; of one block the interval is the mean itself.
    """
    blocks = [np.reshape(np.asarray(arm, dtype=float), (-1, 2)).mean(axis=1) for arm in (own, base)]
    differences = blocks[0] - blocks[1]
    count = len(differences)
    reach = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count) if count > 1 else 0.0
    mean = float(differences.mean())
    return mean, mean - float(reach), mean + float(reach)
