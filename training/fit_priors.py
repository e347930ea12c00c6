"""Fits prior columns: regressions on openly licensed prompts that every later training starts from.

Fifty rows of one's own traffic cannot teach what an essay or a proof is; these columns bring it along.
"""

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from predictor.features.schema import FloatArray
from predictor.text_head import PRIOR, TextHead, projection_id
from training.examples import HASH_BITS
from training.fit_head import BINS, fit_ridge, joint_inputs, out_of_fold, take_apart
from training.folds import assign_folds
from training.head_inputs import KernelMap, apply_head, prompt_hashes, weigh

DoubleArray = npt.NDArray[np.float64]


class PriorGroup(NamedTuple):
    """Prompts of one kind: occupied bins (rows, bins), fixed features, targets (rows, k) in [0, 1], hashes."""

    name: str
    grams: sparse.csr_matrix
    fixed: FloatArray
    targets: DoubleArray
    prompt: npt.NDArray[np.str_]


class _Columns(NamedTuple):
    """A group's prior columns: names, weights of text and of landmarks, biases, predictions out of fold."""

    names: list[str]
    text: list[DoubleArray]
    landmarks: list[FloatArray]
    bias: list[float]
    unseen: list[DoubleArray]


def fit_priors(groups: list[PriorGroup], idf: FloatArray, mapped: KernelMap, seed: int) -> TextHead:
    """A head with a regression on text and the kernel's map per target, and one on text alone per group."""
    fitted = [_fit_group(group, idf, mapped, seed) for group in groups]
    text = np.column_stack([text for columns in fitted for text in columns.text])
    weights = text.astype(np.float16).astype(np.float32)
    sums = np.hstack([part for columns in fitted for part in columns.landmarks])
    kernel = mapped.kernel.with_weights(sums, np.arange(sums.shape[1]))
    prefix = f"text.{projection_id(weights, sums)}{PRIOR}"
    names = tuple(prefix + name for columns in fitted for name in columns.names)
    bias = np.array([value for columns in fitted for value in columns.bias], dtype=np.float32)
    head = TextHead(HASH_BITS, names, idf, weights, bias, (kernel,))
    taught, first = np.unique(
        prompt_hashes(np.concatenate([group.prompt for group in groups])), return_index=True
    )
    return msgspec.structs.replace(head, taught=taught, unseen=_unseen(head, groups, fitted)[first])


def _unseen(head: TextHead, groups: list[PriorGroup], fitted: list[_Columns]) -> FloatArray:
    """All outputs for the rows of all groups, of a group's own columns those out of fold."""
    parts, start = [], 0
    for group, columns in zip(groups, fitted, strict=True):
        outputs = apply_head(head, group.grams, group.fixed)
        outputs[:, start : start + len(columns.unseen)] = np.column_stack(columns.unseen)
        start += len(columns.unseen)
        parts.append(outputs)
    return np.vstack(parts).astype(np.float16).astype(np.float32)


def _fit_group(group: PriorGroup, idf: FloatArray, mapped: KernelMap, seed: int) -> _Columns:
    weighted = weigh(group.grams, idf)
    none = np.zeros((len(group.targets), 0), dtype=np.float32)
    joint = joint_inputs(weighted, mapped.features(group.fixed), none)
    fold = assign_folds(group.prompt, 5, np.random.default_rng(seed))
    columns = _Columns([], [], [], [], [])
    for number, target in enumerate(group.targets.T):
        whole = take_apart(fit_ridge(joint, target), mapped, none)
        columns.names.append(f"{group.name}{number}")
        columns.text.append(whole.text)
        columns.landmarks.append(whole.landmarks)
        columns.bias.append(whole.bias)
        columns.unseen.append(out_of_fold(joint, target, fold))
    plain = fit_ridge(weighted, group.targets[:, 0])
    columns.names.append(f"{group.name}_text")
    columns.text.append(plain.coef_[:BINS])
    columns.landmarks.append(np.zeros((len(mapped.normalization), 1), dtype=np.float32))
    columns.bias.append(float(plain.intercept_))
    columns.unseen.append(out_of_fold(weighted, group.targets[:, 0], fold))
    return columns
