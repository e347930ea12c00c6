"""Kernel regressions on the hand-made features, with a few hundred landmarks: smooth where trees are coarse.

Fitted by scikit-learn (Nystroem, then ridge: `training.fit_head`). Each output is f(x) = sum over landmarks of
w_j exp(-gamma |z - l_j|^2), z being x standardised and clipped.
"""

from typing import Final

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

    def evaluate(self, fixed: FloatArray) -> FloatArray:
        """The k sums of one row; `fixed` is the fixed part of a feature vector."""
        row = standardise(fixed[self.columns], self.center, self.scale)
        # |z - l|^2 = |l|^2 - 2 z.l + |z|^2, the first term being known beforehand.
        squares = self.norms + row @ row - 2 * (self.landmarks @ row)
        return np.asarray(np.exp(squares * np.float32(-self.gamma)) @ self.weights, dtype=np.float32)

    def evaluate_rows(self, fixed: FloatArray) -> FloatArray:
        """The same for many rows, (rows, k)."""
        rows = standardise(fixed[:, self.columns], self.center, self.scale)
        squares = self.norms + np.einsum("ij,ij->i", rows, rows)[:, None] - 2 * (rows @ self.landmarks.T)
        return np.asarray(np.exp(squares * np.float32(-self.gamma)) @ self.weights, dtype=np.float32)

    def with_weights(self, weights: FloatArray, outputs: npt.NDArray[np.intp]) -> "Kernel":
        """The same landmarks with other sums."""
        return msgspec.structs.replace(self, weights=weights, outputs=outputs)


def standardise(rows: FloatArray, center: FloatArray, scale: FloatArray) -> FloatArray:
    """Rows (..., d) in standard deviations from the centre, clipped; an absent value is at the centre."""
    scaled = np.asarray((rows - center) / scale, dtype=np.float32)
    scaled[np.isnan(scaled)] = 0
    return np.minimum(np.maximum(scaled, -CLIP), CLIP)
