"""Fits prior columns: regressions on openly licensed prompts that every later training starts from.

Fifty rows of one's own traffic cannot teach what an essay or a proof is; these columns bring it along.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from predictor.features.schema import FloatArray
from predictor.text_head import TextHead, projection_id
from training.examples import HASH_BITS
from training.fit_head import BINS, PRIOR, fit_ridge, joint_inputs, out_of_fold, take_apart
from training.folds import assign_folds
from training.head_inputs import KernelMap, weigh

DoubleArray = npt.NDArray[np.float64]


class PriorGroup(NamedTuple):
    """Prompts of one kind: n-gram counts (rows, bins), fixed features, targets in [0, 1], prompts' hashes."""

    name: str
    grams: sparse.csr_matrix
    fixed: FloatArray
    target: DoubleArray
    prompt: npt.NDArray[np.str_]


class FittedPriors(NamedTuple):
    """The head with two columns per group, kernel and text; and each group's rows predicted out of fold."""

    head: TextHead
    out_of_fold: dict[str, FloatArray]


def fit_priors(groups: list[PriorGroup], idf: FloatArray, mapped: KernelMap, seed: int) -> FittedPriors:
    """Two ridge regressions per group, on text alone and on text and the kernel's map."""
    text, sums, bias, unseen = [], [], [], {}
    for group in groups:
        weighted = weigh(group.grams, idf)
        joint = joint_inputs(
            weighted, mapped.features(group.fixed), np.zeros((len(group.target), 0), np.float32)
        )
        fold = assign_folds(group.prompt, 5, np.random.default_rng(seed))
        whole = take_apart(fit_ridge(joint, group.target), mapped, np.zeros((1, 0), np.float32))
        plain = fit_ridge(weighted, group.target)
        text += [whole.text, plain.coef_[:BINS]]
        bias += [whole.bias, float(plain.intercept_)]
        sums.append(whole.landmarks)
        unseen[group.name] = np.column_stack(
            [out_of_fold(joint, group.target, fold), out_of_fold(weighted, group.target, fold)]
        ).astype(np.float32)
    weights = np.column_stack(text).astype(np.float16).astype(np.float32)
    kernel = mapped.kernel.with_weights(np.hstack(sums), np.arange(0, 2 * len(groups), 2))
    prefix = f"text.{projection_id(weights, kernel.weights)}{PRIOR}"
    names = tuple(f"{prefix}{group.name}{kind}" for group in groups for kind in ("", "_text"))
    head = TextHead(HASH_BITS, names, idf, weights, np.array(bias, dtype=np.float32), (kernel,))
    return FittedPriors(head, unseen)
