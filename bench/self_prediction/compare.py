"""Tau-b with an interval for each signal, for the text, and for both, by cross-validation over prompts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import lightgbm
import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict

from bench.self_prediction.candidates import Signal
from bench.self_prediction.sglang import HIDDEN
from predictor.history import History
from predictor.lightgbm_ranker import LightGBMRanker
from predictor.request import Api, InferenceRequest, body_from_dict
from training.prompts import Prompt
from training.ranking_metrics import bootstrap_interval, kendall_tau_b

Matrix = npt.NDArray[np.float64]
_FOLDS: Final = 10
_REPEATS: Final = 3
_MOST_TOKENS: Final = 60
_PARAMETERS: Final = {
    "objective": "regression",
    "num_leaves": 7,
    "learning_rate": 0.05,
    "min_data_in_leaf": 12,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "num_threads": 1,
    "verbosity": -1,
}
_TREES: Final = 120
_STRENGTHS: Final = (100.0, 300.0, 1e3, 3e3, 1e4, 3e4)
_INNER_FOLDS: Final = 5
_ROUNDS: Final = 200


class Row(msgspec.Struct, frozen=True):
    """What one set of features is worth on these prompts; `gain` is over the text alone."""

    features: str
    tau_b: float
    low: float
    high: float
    gain_low: float
    gain_high: float


def signal_matrix(signals: Sequence[Signal]) -> Matrix:
    """One row per prompt; of tokens by name only the most frequent are kept, absent ones are NaN."""
    seen = Counter(name for signal in signals for name in signal)
    names = [name for name, _ in seen.most_common(_MOST_TOKENS + 8)]
    return np.array([[signal.get(name) for name in names] for signal in signals], dtype=np.float64)


def text_matrix(prompts: Sequence[Prompt]) -> Matrix:
    """The features that serving computes of each prompt, without any history."""
    ranker = LightGBMRanker.load(history=History())
    return np.array(
        [
            ranker.features(
                InferenceRequest(
                    p.id, Api.CHAT, body_from_dict({"messages": msgspec.to_builtins(p.messages)}), 0
                )
            )[0].values
            for p in prompts
        ]
    )


def out_of_fold(features: Matrix, log_length: Matrix, seed: int, dense: Matrix | None = None) -> Matrix:
    """Each prompt's length as predicted by models that have not seen it; mean over repeats.

    `dense` has too many columns for trees: a ridge makes one of them, which trees see where there are `features`.
    """
    total = np.zeros(len(log_length))
    for repeat in range(_REPEATS):
        fold = np.random.default_rng(seed + repeat).permutation(len(log_length)) % _FOLDS
        for held_out in range(_FOLDS):
            train = fold != held_out
            known, asked = features[train], features[~train]
            if dense is not None:
                before, after = _by_ridge(dense[train], log_length[train], dense[~train])
                if not features.shape[1]:
                    total[~train] += after
                    continue
                known, asked = np.column_stack([known, before]), np.column_stack([asked, after])
            model = lightgbm.train(
                dict(_PARAMETERS), lightgbm.Dataset(known, log_length[train]), num_boost_round=_TREES
            )
            total[~train] += np.asarray(model.predict(asked, num_threads=1))
    return total / _REPEATS


def _by_ridge(known: Matrix, log_length: Matrix, asked: Matrix) -> tuple[Matrix, Matrix]:
    """A ridge's word on both, each of the known by one that has not seen it."""
    center, scale = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-6)
    known, asked = (known - center) / scale, (asked - center) / scale
    ridge = RidgeCV(_STRENGTHS).fit(known, log_length)
    strength = type(ridge)([float(ridge.alpha_)])
    return cross_val_predict(strength, known, log_length, cv=_INNER_FOLDS), ridge.predict(asked)


def compare(
    prompts: Sequence[Prompt], lengths: Sequence[int], signals: Mapping[str, Sequence[Signal]], seed: int = 1
) -> list[Row]:
    """A row for the text alone, then for each candidate alone and together with the text."""
    length = np.array(lengths, dtype=np.float64)
    log_length = np.log1p(length)
    groups = np.array([prompt.id for prompt in prompts])
    text = text_matrix(prompts)
    by_text = out_of_fold(text, log_length, seed)

    def row(name: str, features: Matrix, dense: Matrix | None = None) -> Row:
        known = dense is None and features is text
        predicted = by_text if known else out_of_fold(features, log_length, seed, dense)
        # The same prompts are drawn for every row, so that differences are of the features alone.
        low, high = bootstrap_interval(length, predicted, groups, np.random.default_rng(seed))
        gain = _gain_interval(length, predicted, by_text, np.random.default_rng(seed))
        return Row(name, kendall_tau_b(length, predicted), low, high, *gain)

    rows = [row("text", text)]
    for name, of_prompts in signals.items():
        if next(iter(of_prompts[0])).startswith(HIDDEN):
            dense = np.array([list(signal.values()) for signal in of_prompts], dtype=np.float64)
            rows += [row(name, text[:, :0], dense), row(f"text + {name}", text, dense)]
        else:
            own = signal_matrix(of_prompts)
            rows += [row(name, own), row(f"text + {name}", np.hstack([text, own]))]
    return rows


def _gain_interval(
    length: Matrix, predicted: Matrix, by_text: Matrix, rng: np.random.Generator
) -> tuple[float, float]:
    """95% interval of the tau-b gained over the text, resampling prompts in pairs."""
    gains = []
    for _ in range(_ROUNDS):
        drawn = rng.integers(0, len(length), len(length))
        known = kendall_tau_b(length[drawn], by_text[drawn])
        gains.append(kendall_tau_b(length[drawn], predicted[drawn]) - known)
    low, high = np.percentile(gains, [2.5, 97.5])
    return float(low), float(high)
