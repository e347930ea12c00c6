"""Fits the ensemble's smooth voice with scikit-learn: Nystroem's map of the features that vary, then a ridge."""

from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge

from predictor.features.schema import FloatArray
from predictor.kernel import Kernel, standardise
from predictor.self_query import SELF_NAMES

# Fewer teach nothing that the others do not know.
FEWEST_ROWS: Final = 20
# Chosen by cross-validation on the training half of our own prompts: 128 landmarks rank worse, 400 no better.
_LANDMARKS: Final = 256
_GAMMA: Final = 0.3
_ALPHA: Final = 0.15
# What the model says of itself counts twice: 0.49 -> 0.505.
_SELF_SCALE: Final = 0.5
_CONSTANT: Final = 1e-6
_DoubleArray = npt.NDArray[np.float64]


def fit_smooth(
    matrix: FloatArray,
    target: _DoubleArray,
    weight: _DoubleArray,
    names: tuple[str, ...],
    *,
    signals: bool,
    seed: int,
) -> Kernel:
    """Fit on feature vectors (n, len(names)), targets and weights (n,); its sums are what exceeds the mean target.

    `signals`: whether it may read what the model says of itself.
    """
    columns, center, scale = _inputs(matrix, names, signals=signals)
    # In single precision what is noise of the landmarks' likeness becomes weights of thousands.
    rows = standardise(matrix[:, columns], center, scale).astype(np.float64)
    gamma = _GAMMA / len(columns)
    nystroem = Nystroem(gamma=gamma, n_components=min(_LANDMARKS, len(rows)), random_state=seed).fit(rows)
    beyond = target - np.average(target, weights=weight)
    ridge = Ridge(_ALPHA, fit_intercept=False).fit(nystroem.transform(rows), beyond, sample_weight=weight)
    landmarks = np.asarray(nystroem.components_, dtype=np.float32)
    weights = nystroem.normalization_.T @ ridge.coef_.reshape(-1, 1)
    norms = np.einsum("ij,ij->i", landmarks, landmarks)
    return Kernel(
        columns, center, scale, landmarks, norms, gamma, weights.astype(np.float32), np.zeros(1, np.intp)
    )


def smooth_scores(kernel: Kernel, matrix: FloatArray) -> _DoubleArray:
    """Its sums for many rows (n,)."""
    return np.asarray(kernel.evaluate_rows(matrix)[:, 0], dtype=np.float64)


def _inputs(
    matrix: FloatArray, names: tuple[str, ...], *, signals: bool
) -> tuple[npt.NDArray[np.intp], FloatArray, FloatArray]:
    """The columns that vary, their centres and their scales over the rows that have them."""
    present = ~np.isnan(matrix)
    count = np.maximum(1, present.sum(axis=0))
    center = np.where(present, matrix, 0).sum(axis=0, dtype=np.float64) / count
    variance = (np.where(present, matrix - center, 0) ** 2).sum(axis=0) / count
    scale = np.sqrt(variance)
    said = np.isin(np.array(names), SELF_NAMES)
    scale[(scale <= _CONSTANT * np.maximum(1, abs(center))) | (said & (not signals))] = 0
    columns = scale.nonzero()[0]
    if len(columns) == 0:
        columns, scale = np.zeros(1, dtype=np.intp), np.ones(len(names))
    scale = np.where(said, _SELF_SCALE, 1.0) * scale
    return columns, center[columns].astype(np.float32), scale[columns].astype(np.float32)
