"""Fits the ensemble: LightGBM on everything known, beside kernel regressions."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import lightgbm
import numpy as np
import numpy.typing as npt

from predictor.artifact import pack_booster
from predictor.ensemble import Member
from predictor.features.schema import FloatArray, Schema
from predictor.kernel import Kernel
from predictor.self_query import SELF_NAMES
from predictor.smooth import SUFFIX, smooth_to_bytes
from training.fit_smooth import FEWEST_ROWS, fit_smooth, smooth_scores
from training.folds import held_out_masks

DoubleArray = npt.NDArray[np.float64]

RANKING: Final = frozenset({"lambdarank", "rank_xendcg"})
# No objective of LightGBM's: a kernel regression.
SMOOTH: Final = "smooth"
OBJECTIVES: Final = ("cross_entropy", "regression", "regression_l1", "huber", *sorted(RANKING))
_GRADES: Final = 30
_GROUP_ROWS: Final = 100
# Kendall's tau-b by cross-validation on the training rows of the two public benchmark files (8B, 70B), the booster
# alone: cross-entropy on the label's place 0.505, 0.533; least squares on it 0.499, 0.529; lambdarank 0.492, 0.520;
# xendcg 0.24, 0.46. A hundred rounds at 0.1 lose 0.002 against three hundred at 0.04, four boosters of two hundred at
# 0.06 as much; each hundred trees take 6 us a request. Log length as the target loses 0.004. A network of 32 units
# beside them, or 14 features of how code is built, gain nothing: all kinds of model end at the same figure.
_COMMON: Final[dict[str, Any]] = {
    "learning_rate": 0.04,
    "num_leaves": 15,
    "min_data_in_leaf": 10,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "extra_trees": True,
    "num_threads": 1,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}
_ROUNDS: Final = 300


class Voice(NamedTuple):
    """A member to be: an objective of LightGBM's or SMOOTH, or the name of a feature that is a prediction; its
    weight. A model that `needs` a feature is fitted on the rows that have it; a smooth one reads what the model says
    of itself only where it needs it."""

    objective: str
    weight: float
    feature: str | None = None
    needs: str | None = None


class Rows(NamedTuple):
    """Feature vectors (n, features), targets in [0, 1], fold numbers and weights, all of one length n.

    The target is bounded, so that the long tail of lengths cannot dominate the fit (`training.train.order_target`).
    """

    matrix: FloatArray
    target: DoubleArray
    fold: npt.NDArray[np.intp]
    weight: DoubleArray

    def select(self, mask: npt.NDArray[np.bool_]) -> "Rows":
        """The rows where `mask` is true."""
        return Rows(self.matrix[mask], self.target[mask], self.fold[mask], self.weight[mask])


class FittedRanker(NamedTuple):
    """The members, their models by file, and the ensemble's scores of the training rows, out of fold."""

    members: list[Member]
    models: dict[str, lightgbm.Booster | Kernel]
    scores: DoubleArray

    def files(self, schema: Schema) -> dict[str, bytes]:
        """The models as an artifact keeps them."""
        return {
            name: smooth_to_bytes(model, schema)
            if isinstance(model, Kernel)
            else pack_booster(model.model_to_string())
            for name, model in self.models.items()
        }


class _Heard(NamedTuple):
    """One voice: its scores of the training rows, out of fold and NaN where it is silent, and its model."""

    scores: DoubleArray
    file: str | None = None
    model: lightgbm.Booster | Kernel | None = None


def fit_ranker(
    rows: Rows,
    names: tuple[str, ...],
    voices: Sequence[Voice],
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> FittedRanker:
    """Fit every voice; `advance` is called once per voice.

    As in serving, a voice is silent where its feature is absent; one that is absent everywhere is left out.
    """
    members: list[Member] = []
    models: dict[str, lightgbm.Booster | Kernel] = {}
    total, weights = np.zeros(len(rows.target)), np.zeros(len(rows.target))
    for number, voice in enumerate(voices):
        heard = _hear(rows, names, voice, number, seed + number)
        advance()
        scores, speaks = heard.scores, ~np.isnan(heard.scores)
        if not speaks.any():
            continue
        if heard.file is not None and heard.model is not None:
            models[heard.file] = heard.model
        center, scale = float(scores[speaks].mean()), max(float(scores[speaks].std()), 1e-6)
        members.append(
            Member(voice.objective, voice.weight, center, scale, heard.file, voice.feature, voice.needs)
        )
        total[speaks] += voice.weight * (scores[speaks] - center) / scale
        weights += voice.weight * speaks
    return FittedRanker(members, models, total / np.maximum(weights, 1e-12))


def _hear(rows: Rows, names: tuple[str, ...], voice: Voice, number: int, seed: int) -> _Heard:
    if voice.feature is not None:
        return _Heard(rows.matrix[:, names.index(voice.feature)].astype(np.float64))
    told = np.ones(len(rows.target), dtype=np.bool_)
    if voice.needs is not None:
        told = ~np.isnan(rows.matrix[:, names.index(voice.needs)])
    scores = np.full(len(told), np.nan)
    if voice.objective != SMOOTH:
        booster, scores[told] = _cross_fit(rows.select(told), voice.objective, seed)
        return _Heard(scores, f"booster-{number}.txt.gz", booster)
    if told.sum() < FEWEST_ROWS:
        return _Heard(scores)
    kernel, scores[told] = _cross_smooth(rows.select(told), names, voice, seed)
    return _Heard(scores, f"smooth-{number}{SUFFIX}", kernel)


def _cross_smooth(rows: Rows, names: tuple[str, ...], voice: Voice, seed: int) -> tuple[Kernel, DoubleArray]:
    """The kernel of all rows, and sums of each row by one that has not seen its prompt."""

    def fit(part: Rows) -> Kernel:
        signals = voice.needs in SELF_NAMES
        return fit_smooth(part.matrix, part.target, part.weight, names, signals=signals, seed=seed)

    final = fit(rows)
    scores = smooth_scores(final, rows.matrix)
    for held in held_out_masks(rows.fold):
        scores[held] = smooth_scores(fit(rows.select(~held)), rows.matrix[held])
    return final, scores


def _cross_fit(rows: Rows, objective: str, seed: int) -> tuple[lightgbm.Booster, DoubleArray]:
    """The booster of all rows, and raw scores of each row by one that has not seen its prompt."""
    final = fit_booster(rows, objective, seed)
    scores = np.asarray(final.predict(rows.matrix, raw_score=True))
    for held in held_out_masks(rows.fold):
        kept = rows.select(~held)
        scores[held] = fit_booster(kept, objective, seed).predict(rows.matrix[held], raw_score=True)
    return final, scores


def fit_booster(rows: Rows, objective: str, seed: int) -> lightgbm.Booster:
    """One booster. Ranking objectives see random groups of rows, as if these had waited together."""
    parameters = {**_COMMON, "objective": objective, "seed": seed}
    if len(rows.target) == 1:
        parameters["bagging_freq"] = 0  # seven tenths of one row are none
    if objective not in RANKING:
        data = lightgbm.Dataset(rows.matrix, rows.target, weight=rows.weight)
        return lightgbm.train(parameters, data, _ROUNDS)
    order = np.random.default_rng(seed).permutation(len(rows.target))
    grades = np.minimum(_GRADES - 1, (rows.target * _GRADES).astype(int))[order]
    groups = [len(part) for part in np.array_split(order, max(1, len(order) // _GROUP_ROWS))]
    data = lightgbm.Dataset(rows.matrix[order], grades, weight=rows.weight[order], group=groups)
    parameters |= {"label_gain": list(range(_GRADES + 1)), "lambdarank_truncation_level": _GROUP_ROWS}
    return lightgbm.train(parameters, data, _ROUNDS)
