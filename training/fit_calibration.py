"""Fits the monotone maps from score to quantile, expected tokens and their spread."""

from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression

from predictor.calibration import Calibration, MonotoneMap

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_MAP_KNOTS: Final = 129
_SPREAD_BINS: Final = 20
_BIN_ROWS: Final = 20


def fit_calibration(scores: DoubleArray, label: DoubleArray, censored: BoolArray) -> Calibration:
    """Monotone maps from out-of-fold scores; censored rows shape the quantile map alone."""
    knots = np.linspace(0, 1, min(_MAP_KNOTS, len(scores)) if len(scores) > 1 else 1)
    kept = ~censored if (~censored).any() else np.ones_like(censored)
    x, y = scores[kept], label[kept]
    mean = IsotonicRegression(out_of_bounds="clip").fit(x, y)
    low, high = _spread(x, y)
    return Calibration(
        quantile=_map(np.quantile(scores, knots), knots),
        tokens=_map(mean.X_thresholds_, mean.y_thresholds_),
        p10_tokens=low,
        p90_tokens=high,
    )


def _spread(scores: DoubleArray, label: DoubleArray) -> tuple[MonotoneMap, MonotoneMap]:
    """10th and 90th percentile of tokens within bins of equal size along the score."""
    order = np.argsort(scores, kind="stable")
    bins = np.array_split(order, max(1, min(_SPREAD_BINS, len(order) // _BIN_ROWS)))
    centers = np.array([scores[rows].mean() for rows in bins])
    percentiles = np.array([np.percentile(label[rows], [10, 90]) for rows in bins])
    return _map(centers, percentiles[:, 0]), _map(centers, percentiles[:, 1])


def _map(x: DoubleArray, y: DoubleArray) -> MonotoneMap:
    """A valid map from ascending points: equal x merged, y made non-decreasing."""
    unique, first = np.unique(np.asarray(x, dtype=float), return_index=True)
    rising = np.maximum.accumulate(np.asarray(y, dtype=float))
    last = np.append(first[1:], len(rising)) - 1
    middle = (rising[first] + rising[last]) / 2
    return MonotoneMap(unique.tolist(), np.maximum.accumulate(middle).tolist())
