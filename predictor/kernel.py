"""Kernel regressions on the hand-made features, with a few hundred landmarks: smooth where trees are coarse.

Fitted by scikit-learn (Nystroem, then ridge: `training.fit_head`). Each output is f(x) = sum over landmarks of
w_j exp(-gamma |z - l_j|^2), z being x standardised and clipped.
"""

import math
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from predictor.features.schema import FloatArray

# Beyond two standard deviations a count says no more: clipping at 4 or 3 ranked worse on six data sets of seven.
CLIP: Final = np.float32(2)


class Kernel(msgspec.Struct, frozen=True):
    """`columns` (d,) are the places of its inputs among the fixed features; `center` and `scale` are (d,),
    `landmarks` (L, d), `norms` their squared norms, `weights` (L, k). `outputs` (k,) are the columns of the
    text head that its k sums are added to."""

    columns: npt.NDArray[np.intp]
    center: FloatArray
    scale: FloatArray
    landmarks: FloatArray
    norms: FloatArray
    gamma: float
    weights: FloatArray
    outputs: npt.NDArray[np.intp]

    def similarities(self, fixed: FloatArray) -> FloatArray:
        """How near each row is to each landmark, (rows, L); `fixed` is the fixed part of feature vectors."""
        rows = standardise(fixed[:, self.columns], self.center, self.scale)
        squares = self.norms + np.einsum("ij,ij->i", rows, rows)[:, None] - 2 * (rows @ self.landmarks.T)
        return np.asarray(np.exp(squares * np.float32(-self.gamma)), dtype=np.float32)

    def evaluate_rows(self, fixed: FloatArray) -> FloatArray:
        """The k sums of many rows, (rows, k); `fixed` is the fixed part of their feature vectors."""
        return np.asarray(self.similarities(fixed) @ self.weights, dtype=np.float32)

    def with_weights(self, weights: FloatArray, outputs: npt.NDArray[np.intp]) -> "Kernel":
        """The same landmarks with other sums."""
        return msgspec.structs.replace(self, weights=weights, outputs=outputs)


def standardise(rows: FloatArray, center: FloatArray, scale: FloatArray) -> FloatArray:
    """Rows (..., d) in standard deviations from the centre, clipped; an absent value is at the centre."""
    with np.errstate(over="ignore"):  # what is infinitely far off is clipped like the rest
        scaled = np.asarray((rows - center) / scale, dtype=np.float32)
    scaled[np.isnan(scaled)] = 0
    return np.minimum(np.maximum(scaled, -CLIP), CLIP)


class FoldedKernel(NamedTuple):
    """The same kernel with all that does not depend on the row multiplied out beforehand.

    exp(-g |z - l|^2) = exp(-g |z|^2) exp(2 g l.z) exp(-g |l|^2): `landmarks` are 2 g l, the last factor is in the
    `weights`. Nothing overflows, because z and l are clipped and g is of the order of one over their dimension.
    """

    columns: npt.NDArray[np.intp]
    center: FloatArray
    per_scale: FloatArray
    landmarks: FloatArray
    weights: FloatArray
    gamma: float

    @classmethod
    def of(cls, kernel: Kernel) -> "FoldedKernel":
        """Fold a kernel."""
        own = np.exp(-kernel.gamma * kernel.norms.astype(np.float64))
        return cls(
            kernel.columns,
            kernel.center,
            np.asarray(1 / kernel.scale, dtype=np.float32),
            np.asarray(2 * kernel.gamma * kernel.landmarks, dtype=np.float32),
            np.asarray(kernel.weights * own[:, None], dtype=np.float32),
            kernel.gamma,
        )

    def evaluate(self, fixed: FloatArray) -> FloatArray:
        """The k sums of one row; `fixed` is the fixed part of a feature vector."""
        with np.errstate(over="ignore"):  # as in `standardise`
            row = (fixed.take(self.columns) - self.center) * self.per_scale
        row[np.isnan(row)] = 0  # an absent value is at the centre
        np.minimum(np.maximum(row, -CLIP, out=row), CLIP, out=row)
        own = np.float32(math.exp(-self.gamma * float(row @ row)))
        return np.asarray(np.exp(self.landmarks @ row) @ self.weights * own, dtype=np.float32)
