"""Fits the text head with scikit-learn: TF-IDF, truncated SVD, and a ridge regression on log length."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import Ridge

from predictor.features.schema import FloatArray
from predictor.text_head import TextHead, projection_id
from training.dataset import HASH_BITS
from training.folds import held_out_masks

SVD_OUTPUTS: Final = 32
_RIDGE_ALPHA: Final = 1.0

DoubleArray = npt.NDArray[np.float64]


class FittedHead(NamedTuple):
    """The head, and its outputs for the rows it was fitted on: ridge outputs out of fold, as serving sees them."""

    head: TextHead
    outputs: FloatArray


def fit_head(grams: sparse.csr_matrix, target: DoubleArray, fold: npt.NDArray[np.intp], seed: int) -> FittedHead:
    """Fit on n-gram counts (rows, 2^HASH_BITS) and targets (rows,), in log tokens."""
    transformer = TfidfTransformer(sublinear_tf=True)
    weighted = transformer.fit_transform(grams)
    components = min(SVD_OUTPUTS, max(1, min(len(target), grams.shape[1]) - 1))
    svd = TruncatedSVD(components, random_state=seed).fit(weighted)
    ridge = _ridge(weighted, target)
    weights = np.hstack([svd.components_.T, ridge.coef_[:, None]]).astype(np.float16).astype(np.float32)
    bias = np.zeros(components + 1, dtype=np.float32)
    bias[-1] = ridge.intercept_
    prefix = f"text.{projection_id(weights)}"
    head = TextHead(
        bits=HASH_BITS,
        names=(*(f"{prefix}.svd{number:02d}" for number in range(components)), f"{prefix}.ridge"),
        idf=transformer.idf_.astype(np.float16).astype(np.float32),
        weights=weights,
        bias=bias,
    )
    outputs = np.empty((len(target), components + 1), dtype=np.float32)
    outputs[:, :-1] = svd.transform(weighted)
    outputs[:, -1] = _out_of_fold(weighted, target, fold, fallback=ridge.predict(weighted))
    return FittedHead(head, outputs)


def _ridge(weighted: sparse.csr_matrix, target: DoubleArray) -> Ridge:
    return Ridge(_RIDGE_ALPHA, solver="sparse_cg").fit(weighted, target)


def _out_of_fold(
    weighted: sparse.csr_matrix, target: DoubleArray, fold: npt.NDArray[np.intp], fallback: DoubleArray
) -> DoubleArray:
    predicted = fallback.copy()
    for held in held_out_masks(fold):
        predicted[held] = _ridge(weighted[~held], target[~held]).predict(weighted[held])
    return predicted


def apply_head(head: TextHead, grams: sparse.csr_matrix) -> FloatArray:
    """Outputs (rows, len(head.names)) of many rows, by the very code that serves one."""
    rows = np.split(np.arange(grams.nnz), grams.indptr[1:-1])
    outputs = np.empty((grams.shape[0], len(head.names)), dtype=np.float32)
    for number, places in enumerate(rows):
        outputs[number] = head.transform(grams.indices[places], grams.data[places].astype(np.float32))
    return outputs
