"""Fits the LightGBM ensemble and its calibration."""

from typing import Any, Final, NamedTuple

import lightgbm
import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression

from predictor.artifact import Member
from predictor.calibration import Calibration, MonotoneMap
from predictor.features.schema import FloatArray
from training.folds import held_out_masks

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

OBJECTIVES: Final = ("regression", "lambdarank")
_GRADES: Final = 30
_GROUP_ROWS: Final = 100
_COMMON: Final[dict[str, Any]] = {
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "num_threads": 1,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}
_ROUNDS: Final = 300
_MAP_KNOTS: Final = 129
_SPREAD_BINS: Final = 20


class FittedRanker(NamedTuple):
    """LightGBM's text per member, and the ensemble's scores of the training rows, out of fold."""

    members: list[Member]
    models: dict[str, str]
    scores: DoubleArray


def fit_ranker(
    matrix: FloatArray, target: DoubleArray, fold: npt.NDArray[np.intp], objectives: tuple[str, ...], seed: int
) -> FittedRanker:
    """Fit one booster per objective on (rows, features) and log lengths (rows,)."""
    members, models, total = [], {}, np.zeros(len(target))
    for number, objective in enumerate(objectives):
        final = fit_booster(matrix, target, objective, seed + number)
        scores = np.asarray(final.predict(matrix, raw_score=True))
        for held in held_out_masks(fold):
            partial = fit_booster(matrix[~held], target[~held], objective, seed + number)
            scores[held] = partial.predict(matrix[held], raw_score=True)
        center, scale = float(scores.mean()), max(float(scores.std()), 1e-6)
        file = f"booster-{number}.txt.gz"
        members.append(Member(file, objective, 1 / len(objectives), center, scale))
        models[file] = final.model_to_string()
        total += (scores - center) / scale / len(objectives)
    return FittedRanker(members, models, total)


def fit_booster(matrix: FloatArray, target: DoubleArray, objective: str, seed: int) -> lightgbm.Booster:
    """One booster. Ranking objectives see random groups of rows, as if these had waited together."""
    parameters = {**_COMMON, "objective": objective, "seed": seed}
    if objective == "regression":
        return lightgbm.train(parameters, lightgbm.Dataset(matrix, target), _ROUNDS)
    order = np.random.default_rng(seed).permutation(len(target))
    ranks = np.argsort(np.argsort(target, kind="stable"), kind="stable")
    grades = (ranks * _GRADES // max(1, len(target))).astype(int)
    groups = [len(part) for part in np.array_split(order, max(1, len(order) // _GROUP_ROWS))]
    data = lightgbm.Dataset(matrix[order], grades[order], group=groups)
    parameters |= {"label_gain": list(range(_GRADES + 1)), "lambdarank_truncation_level": _GROUP_ROWS}
    return lightgbm.train(parameters, data, _ROUNDS)


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
    bins = np.array_split(order, max(1, min(_SPREAD_BINS, len(order) // 20)))
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
