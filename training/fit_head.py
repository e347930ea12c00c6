"""Fits the text head with scikit-learn: truncated SVD, a ridge and a kernel regression of rank, and priors."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import Ridge

from predictor.features.schema import FloatArray
from predictor.kernel import Kernel
from predictor.text_head import TextHead, projection_id
from training.examples import HASH_BITS
from training.folds import held_out_masks
from training.head_inputs import (
    KernelMap,
    apply_head,
    fit_idf,
    fit_kernel_map,
    map_of,
    unseen_outputs,
    weigh,
)

SVD_OUTPUTS: Final = 16
BINS: Final = 1 << HASH_BITS
_ALPHA: Final = 1.0
# How much similarity of the text counts, similarity of the hand-made features, and a prior beside both: chosen by
# cross-validation. More weight on the text ranks worse on thousands of rows.
_TEXT_WEIGHT: Final = 0.8
_FEATURE_WEIGHT: Final = 2.25
_PRIOR_WEIGHT: Final = 1.0

DoubleArray = npt.NDArray[np.float64]
FoldArray = npt.NDArray[np.intp]


class FittedHead(NamedTuple):
    """The head, and its outputs for the rows it was fitted on, out of fold, as serving sees new rows."""

    head: TextHead
    outputs: FloatArray


class Regression(NamedTuple):
    """A regression on text, on the kernel's map and on prior columns, taken apart again.

    `text` (bins,), `landmarks` (L, 1), `priors` (p,), `bias`.
    """

    text: DoubleArray
    landmarks: FloatArray
    priors: DoubleArray
    bias: float


def fit_head(
    grams: sparse.csr_matrix,
    fixed: FloatArray,
    target: DoubleArray,
    fold: FoldArray,
    seed: int,
    *,
    prompt: npt.NDArray[np.str_],
    base: TextHead | None = None,
) -> FittedHead:
    """Fit on occupied bins (rows, bins), fixed features, targets in [0, 1] (rows,) and the prompts' hashes.

    `base` lends its document frequencies and its prior columns: what other people's prompts have taught.
    """
    lent = prior_head(base, fit_idf(grams) if base is None else base.idf)
    priors = unseen_outputs(lent, grams, fixed, prompt)
    weighted = weigh(grams, lent.idf)
    mapped = map_of(lent.kernels[0]) if lent.kernels else fit_kernel_map(fixed, seed)
    joint = joint_inputs(weighted, mapped.features(fixed), priors)
    ridge = fit_ridge(weighted, target)
    regression = take_apart(fit_ridge(joint, target), mapped, priors)
    head = _append(lent, _components(weighted, seed), ridge, regression, mapped)
    outputs = apply_head(head, grams, fixed)
    outputs[:, : priors.shape[1]] = priors
    outputs[:, -2] = out_of_fold(weighted, target, fold)
    outputs[:, -1] = out_of_fold(joint, target, fold)
    return FittedHead(head, outputs)


def _components(weighted: sparse.csr_matrix, seed: int) -> DoubleArray:
    """Right singular vectors (bins, k) of the weighted n-grams."""
    svd = TruncatedSVD(min(SVD_OUTPUTS, max(1, min(weighted.shape) - 1)), random_state=seed)
    # It also divides by the variance, for a figure that is not used; texts that are all alike have none.
    with np.errstate(divide="ignore", invalid="ignore"):
        svd.fit(weighted)
    return np.asarray(svd.components_.T, dtype=np.float64)


def prior_head(base: TextHead | None, idf: FloatArray) -> TextHead:
    """The base's prior columns alone; no column where there is no base."""
    if base is None:
        none = np.zeros(0, dtype=np.float32)
        return TextHead(HASH_BITS, (), idf, np.zeros((BINS, 0), dtype=np.float32), none)
    kept = base.priors
    place = {old: new for new, old in enumerate(kept)}
    kernels = []
    for kernel in base.kernels:
        chosen = [number for number, output in enumerate(kernel.outputs.tolist()) if output in place]
        if chosen:
            outputs = np.array([place[int(kernel.outputs[number])] for number in chosen], dtype=np.intp)
            kernels.append(kernel.with_weights(kernel.weights[:, chosen], outputs))
    names = tuple(base.names[index] for index in kept)
    weights, bias = base.weights[:, kept], base.bias[kept]
    return TextHead(base.bits, names, base.idf, weights, bias, tuple(kernels), base.taught, base.unseen)


def joint_inputs(weighted: sparse.csr_matrix, mapped: DoubleArray, priors: FloatArray) -> sparse.csr_matrix:
    """All that the kernel regression sees, each part scaled by how much it counts."""
    scaled = _PRIOR_WEIGHT * (priors - priors.mean(axis=0)) / _spread(priors)
    dense = sparse.csr_matrix(np.hstack([mapped * np.sqrt(_FEATURE_WEIGHT), scaled]))
    return sparse.hstack([weighted * np.sqrt(_TEXT_WEIGHT), dense]).tocsr()


def take_apart(ridge: Ridge, mapped: KernelMap, priors: FloatArray) -> Regression:
    """The regression on `joint_inputs` as weights of text, landmarks and unscaled priors."""
    landmarks = len(mapped.normalization)
    on_priors = ridge.coef_[BINS + landmarks :] * _PRIOR_WEIGHT / _spread(priors)
    return Regression(
        text=ridge.coef_[:BINS] * np.sqrt(_TEXT_WEIGHT),
        landmarks=mapped.weights(ridge.coef_[BINS : BINS + landmarks] * np.sqrt(_FEATURE_WEIGHT)),
        priors=on_priors,
        bias=float(ridge.intercept_ - priors.mean(axis=0) @ on_priors),
    )


def fit_ridge(inputs: sparse.csr_matrix, target: DoubleArray) -> Ridge:
    """Ridge regression, by conjugate gradients because the inputs are sparse."""
    return Ridge(_ALPHA, solver="sparse_cg").fit(inputs, target)


def out_of_fold(inputs: sparse.csr_matrix, target: DoubleArray, fold: FoldArray) -> DoubleArray:
    """Each row predicted by a ridge that has not seen its prompt; the mean where there is but one fold."""
    predicted = np.full(len(target), target.mean())
    for held in held_out_masks(fold):
        predicted[held] = fit_ridge(inputs[~held], target[~held]).predict(inputs[held])
    return predicted


def _append(
    lent: TextHead, components: DoubleArray, ridge: Ridge, regression: Regression, mapped: KernelMap
) -> TextHead:
    """The lent columns, then our own: SVD, ridge, kernel. What the kernel takes from priors is folded in."""
    text = regression.text + lent.weights @ regression.priors
    own = np.column_stack([components, ridge.coef_, text]).astype(np.float16).astype(np.float32)
    bias = regression.bias + float(lent.bias @ regression.priors)
    last = len(lent.names) + own.shape[1] - 1
    prefix = f"text.{projection_id(own, regression.landmarks)}"
    own_names = [f"{prefix}.svd{number:02d}" for number in range(components.shape[1])]
    return TextHead(
        bits=HASH_BITS,
        names=(*lent.names, *own_names, f"{prefix}.ridge", f"{prefix}.kernel"),
        idf=lent.idf,
        weights=np.hstack([lent.weights, own]),
        bias=np.array([*lent.bias, *(0.0 for _ in own_names), ridge.intercept_, bias], dtype=np.float32),
        kernels=(_extended(mapped.kernel, regression, last, lent.kernels),),
        taught=lent.taught,
        unseen=lent.unseen,
    )


def _extended(kernel: Kernel, regression: Regression, output: int, lent: tuple[Kernel, ...]) -> Kernel:
    """The kernel of our own output which, where it is a lent one, also keeps its sums and their share in ours."""
    if not lent:
        return kernel.with_weights(regression.landmarks, np.array([output]))
    share = kernel.weights @ regression.priors[kernel.outputs] + regression.landmarks[:, 0]
    weights = np.column_stack([kernel.weights, share]).astype(np.float32)
    return kernel.with_weights(weights, np.append(kernel.outputs, output))


def _spread(priors: FloatArray) -> DoubleArray:
    return np.asarray(np.maximum(priors.std(axis=0), 1e-6), dtype=np.float64)
