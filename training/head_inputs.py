"""What the text head's regressions see of the rows: weighted n-grams, and Nystroem's map of the rest."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.kernel_approximation import Nystroem
from sklearn.preprocessing import normalize

from predictor.features.extractor import FIXED_NAMES
from predictor.features.schema import FloatArray
from predictor.kernel import Kernel, standardise
from predictor.text_head import TextHead

LANDMARKS: Final = 128
# gamma times the number of inputs: 1 and 2 ranked worse on most data sets.
_GAMMA: Final = 0.5
_CONSTANT: Final = 1e-6
_SMALLEST_SIZE: Final = 1e-12
_KERNEL_INPUTS: Final = ("size.", "turn.", "media.", "text.", "count.", "share.", "cue.", "asked.", "layout.")

DoubleArray = npt.NDArray[np.float64]


class KernelMap(NamedTuple):
    """A kernel, its weights disregarded, and Nystroem's normalisation (L, L) that turns coefficients into weights."""

    kernel: Kernel
    normalization: DoubleArray

    def features(self, fixed: FloatArray) -> DoubleArray:
        """Nystroem's features (rows, L), whose inner products approximate the kernel."""
        return np.asarray(self.kernel.similarities(fixed) @ self.normalization.T, dtype=np.float64)

    def weights(self, coefficients: DoubleArray) -> FloatArray:
        """Coefficients (L,) or (L, k) on the features as weights of the landmarks, (L, k)."""
        columns = coefficients.reshape(len(self.normalization), -1)
        return np.asarray(self.normalization.T @ columns, dtype=np.float32)


def fit_idf(grams: sparse.csr_matrix) -> FloatArray:
    """Inverse document frequencies (bins,), as scikit-learn smooths them."""
    idf = TfidfTransformer().fit(grams).idf_
    return np.asarray(idf, dtype=np.float16).astype(np.float32)


def weigh(grams: sparse.csr_matrix, idf: FloatArray) -> sparse.csr_matrix:
    """TF-IDF of many rows, an n-gram counting once per text; scaled to unit length."""
    weighted = grams.astype(np.float64)
    weighted.data = idf[weighted.indices].astype(np.float64)
    return normalize(weighted)


def fit_kernel_map(fixed: FloatArray, seed: int) -> KernelMap:
    """Choose landmarks among the rows of fixed features."""
    columns = np.array(
        [i for i, name in enumerate(FIXED_NAMES) if name.startswith(_KERNEL_INPUTS)], dtype=np.intp
    )
    center, scale = _moments(fixed[:, columns])
    varied = scale > _CONSTANT
    columns, center, scale = columns[varied], center[varied], scale[varied]
    rows = standardise(fixed[:, columns], center, scale)
    if len(columns) == 0:
        columns, center, scale = np.zeros(1, np.intp), np.zeros(1, np.float32), np.ones(1, np.float32)
        rows = standardise(fixed[:, columns], center, scale)
    gamma = _GAMMA / len(columns)
    nystroem = Nystroem(gamma=gamma, n_components=min(LANDMARKS, len(rows)), random_state=seed).fit(rows)
    landmarks = np.asarray(nystroem.components_, dtype=np.float32)
    count = len(landmarks)
    identity = np.eye(count, dtype=np.float32)
    norms = np.einsum("ij,ij->i", landmarks, landmarks)
    kernel = Kernel(columns, center, scale, landmarks, norms, gamma, identity, np.arange(count))
    return KernelMap(kernel, nystroem.normalization_)


def map_of(kernel: Kernel) -> KernelMap:
    """Nystroem's map over a kernel's own landmarks, so that one evaluation serves old sums and new ones."""
    squares = kernel.norms[:, None] + kernel.norms - 2 * (kernel.landmarks @ kernel.landmarks.T)
    left, sizes, right = np.linalg.svd(np.exp(-kernel.gamma * squares.astype(np.float64)))
    return KernelMap(kernel, (left / np.sqrt(np.maximum(sizes, _SMALLEST_SIZE))) @ right)


def apply_head(head: TextHead, grams: sparse.csr_matrix, fixed: FloatArray) -> FloatArray:
    """Outputs (rows, len(head.names)) of many rows; `HeadEvaluator` does the same for one."""
    outputs = np.asarray(weigh(grams, head.idf) @ head.weights + head.bias, dtype=np.float32)
    for kernel in head.kernels:
        outputs[:, kernel.outputs] += kernel.evaluate_rows(fixed)
    return outputs


def unseen_outputs(
    head: TextHead, grams: sparse.csr_matrix, fixed: FloatArray, prompt: npt.NDArray[np.str_]
) -> FloatArray:
    """`apply_head`, but of prompts that taught its prior columns these say what they would if they had not.

    What a column remembers of a prompt would pass for what it knows of prompts that are new.
    """
    outputs = apply_head(head, grams, fixed)
    hashes = prompt_hashes(prompt)
    for row in np.flatnonzero(np.isin(hashes, head.taught)).tolist():
        outputs[row, head.priors] = head.unseen[np.searchsorted(head.taught, hashes[row])]
    return outputs


def prompt_hashes(prompt: npt.NDArray[np.str_]) -> npt.NDArray[np.uint32]:
    """32 bits of each prompt's hash, which is hexadecimal."""
    return np.array([int(digits[:8], 16) for digits in prompt.tolist()], dtype=np.uint32)


def _moments(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each column, over the rows that have it; 0 where none has."""
    present = ~np.isnan(values)
    count = np.maximum(1, present.sum(axis=0))
    center = np.where(present, values, 0).sum(axis=0) / count
    variance = np.where(present, (values - center) ** 2, 0).sum(axis=0) / count
    return center.astype(np.float32), np.sqrt(variance).astype(np.float32)
