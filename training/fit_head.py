"""Fits the text head with scikit-learn: TF-IDF, truncated SVD, a ridge and a kernel regression of rank."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize

from predictor.features.extractor import FIXED_NAMES
from predictor.features.schema import FloatArray
from predictor.kernel import Kernel, standardise
from predictor.text_head import TextHead, projection_id
from training.dataset import HASH_BITS
from training.folds import held_out_masks

SVD_OUTPUTS: Final = 24
LANDMARKS: Final = 256
PRIOR: Final = ".prior_"
_ALPHA: Final = 1.0
# gamma times the number of inputs, and how much the text's own similarity counts beside the kernel's.
_GAMMA: Final = 0.5
_TEXT_WEIGHT: Final = 1.5
_CONSTANT: Final = 1e-6
_KERNEL_INPUTS: Final = ("size.", "turn.", "media.", "text.", "count.", "share.", "cue.", "asked.", "layout.")

DoubleArray = npt.NDArray[np.float64]


class FittedHead(NamedTuple):
    """The head, and its outputs for the rows it was fitted on, out of fold, as serving sees new rows."""

    head: TextHead
    outputs: FloatArray


class _Inputs(NamedTuple):
    """What the regressions see: weighted n-grams, the kernel's features, and how the latter were made."""

    weighted: sparse.csr_matrix
    joint: sparse.csr_matrix
    kernel: Kernel
    nystroem: Nystroem


def fit_idf(grams: sparse.csr_matrix) -> FloatArray:
    """Inverse document frequencies (2^HASH_BITS,), as scikit-learn smooths them."""
    idf = TfidfTransformer(sublinear_tf=True).fit(grams).idf_
    return np.asarray(idf, dtype=np.float16).astype(np.float32)


def weigh(grams: sparse.csr_matrix, idf: FloatArray) -> sparse.csr_matrix:
    """TF-IDF of many rows; `predictor.text_head.tfidf` is the same for one."""
    weighted = grams.astype(np.float64)
    weighted.data = (np.log(weighted.data) + 1) * idf[weighted.indices]
    return normalize(weighted)


def fit_head(
    grams: sparse.csr_matrix,
    fixed: FloatArray,
    target: DoubleArray,
    fold: npt.NDArray[np.intp],
    seed: int,
    base: TextHead | None = None,
) -> FittedHead:
    """Fit on n-gram counts (rows, 2^HASH_BITS), fixed features and targets in [0, 1] (rows,).

    `base` lends its document frequencies and its prior columns: what other people's prompts have taught.
    """
    idf = fit_idf(grams) if base is None else base.idf
    inputs = _inputs(weigh(grams, idf), fixed, seed)
    ridge, joint = _ridge(inputs.weighted, target), _ridge(inputs.joint, target)
    svd = _svd(inputs.weighted, seed)
    text_part = joint.coef_[: 1 << HASH_BITS] * np.sqrt(_TEXT_WEIGHT)
    own = np.column_stack([svd.components_.T, ridge.coef_, text_part])
    bias = np.array([0.0] * svd.n_components + [ridge.intercept_, joint.intercept_])
    kernel = _with_weights(inputs, joint.coef_[1 << HASH_BITS :])
    head = _assemble(idf, own, bias, kernel, base)
    outputs = apply_head(head, grams, fixed)
    outputs[:, -2] = _out_of_fold(inputs.weighted, target, fold, fallback=outputs[:, -2])
    outputs[:, -1] = _out_of_fold(inputs.joint, target, fold, fallback=outputs[:, -1])
    return FittedHead(head, outputs)


def fit_column(grams: sparse.csr_matrix, target: DoubleArray, idf: FloatArray) -> tuple[DoubleArray, float]:
    """One ridge column, its weights (2^HASH_BITS,) and its bias."""
    ridge = _ridge(weigh(grams, idf), target)
    return ridge.coef_, float(ridge.intercept_)


def apply_head(head: TextHead, grams: sparse.csr_matrix, fixed: FloatArray) -> FloatArray:
    """Outputs (rows, len(head.names)) of many rows; `TextHead.transform` is the same for one."""
    outputs = np.asarray(weigh(grams, head.idf) @ head.weights + head.bias, dtype=np.float32)
    if head.kernel is not None:
        outputs[:, head.kernel_output] += head.kernel.evaluate_rows(fixed)
    return outputs


def _assemble(
    idf: FloatArray, own: DoubleArray, bias: DoubleArray, kernel: Kernel, base: TextHead | None
) -> TextHead:
    """Prior columns of the base, then our own: SVD, ridge, kernel."""
    priors = [index for index, name in enumerate(base.names) if PRIOR in name] if base else []
    rounded = own.astype(np.float16).astype(np.float32)
    prefix = f"text.{projection_id(rounded, kernel.landmarks, kernel.weights)}"
    names = (*(f"{prefix}.svd{number:02d}" for number in range(own.shape[1] - 2)), f"{prefix}.ridge", f"{prefix}.kernel")
    weights, biases = rounded, bias.astype(np.float32)
    if base is not None:
        names = (*(base.names[index] for index in priors), *names)
        weights = np.hstack([base.weights[:, priors], weights])
        biases = np.concatenate([base.bias[priors], biases])
    return TextHead(HASH_BITS, names, idf, weights, biases, kernel, kernel_output=len(names) - 1)


def _inputs(weighted: sparse.csr_matrix, fixed: FloatArray, seed: int) -> _Inputs:
    columns = np.array([i for i, name in enumerate(FIXED_NAMES) if name.startswith(_KERNEL_INPUTS)], dtype=np.intp)
    center, scale = _moments(fixed[:, columns])
    varied = scale > _CONSTANT
    columns, center, scale = columns[varied], center[varied], scale[varied]
    rows = standardise(fixed[:, columns], center, scale)
    gamma = _GAMMA / max(1, len(columns))
    nystroem = Nystroem(gamma=gamma, n_components=min(LANDMARKS, len(rows)), random_state=seed)
    mapped = nystroem.fit_transform(rows)
    landmarks = nystroem.components_.astype(np.float32)
    kernel = Kernel(columns, center, scale, landmarks, (landmarks**2).sum(axis=1), np.zeros(0, np.float32), gamma)
    joint = sparse.hstack([weighted * np.sqrt(_TEXT_WEIGHT), sparse.csr_matrix(mapped)]).tocsr()
    return _Inputs(weighted, joint, kernel, nystroem)


def _moments(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each column, over the rows that have it; 0 where none has."""
    present = ~np.isnan(values)
    count = np.maximum(1, present.sum(axis=0))
    center = np.where(present, values, 0).sum(axis=0) / count
    variance = np.where(present, (values - center) ** 2, 0).sum(axis=0) / count
    return center.astype(np.float32), np.sqrt(variance).astype(np.float32)


def _with_weights(inputs: _Inputs, coefficients: DoubleArray) -> Kernel:
    """Fold the ridge's coefficients on Nystroem's features into one weight per landmark."""
    weights = inputs.nystroem.normalization_.T @ coefficients
    old = inputs.kernel
    return Kernel(old.columns, old.center, old.scale, old.landmarks, old.norms, weights.astype(np.float32), old.gamma)


def _svd(weighted: sparse.csr_matrix, seed: int) -> TruncatedSVD:
    components = min(SVD_OUTPUTS, max(1, min(weighted.shape) - 1))
    return TruncatedSVD(components, random_state=seed).fit(weighted)


def _ridge(inputs: sparse.csr_matrix, target: DoubleArray) -> Ridge:
    return Ridge(_ALPHA, solver="sparse_cg").fit(inputs, target)


def _out_of_fold(
    inputs: sparse.csr_matrix, target: DoubleArray, fold: npt.NDArray[np.intp], fallback: FloatArray
) -> DoubleArray:
    predicted = np.asarray(fallback, dtype=np.float64)
    for held in held_out_masks(fold):
        predicted[held] = _ridge(inputs[~held], target[~held]).predict(inputs[held])
    return predicted
