"""A kernel regression on the hand-made features, with a few hundred landmarks: smooth where trees are coarse.

Fitted by scikit-learn (Nystroem, then ridge: `training.fit_head`). It is f(x) = sum of w_j exp(-gamma |z - l_j|^2),
z being x standardised and clipped.
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
    `landmarks` (L, d), `norms` their squared norms and `weights` (L,)."""

    columns: npt.NDArray[np.intp]
    center: FloatArray
    scale: FloatArray
    landmarks: FloatArray
    norms: FloatArray
    weights: FloatArray
    gamma: float

    def evaluate(self, fixed: FloatArray) -> float:
        """The kernel's share of one prediction; `fixed` is the fixed part of a feature vector."""
        row = standardise(fixed[self.columns], self.center, self.scale)
        # |z - l|^2 = |l|^2 - 2 z.l + |z|^2, the first term being known beforehand.
        squares = self.norms + row @ row - 2 * (self.landmarks @ row)
        return float(np.exp(squares * np.float32(-self.gamma)) @ self.weights)

    def evaluate_rows(self, fixed: FloatArray) -> FloatArray:
        """The same for many rows, (rows,)."""
        rows = standardise(fixed[:, self.columns], self.center, self.scale)
        squares = self.norms + np.einsum("ij,ij->i", rows, rows)[:, None] - 2 * (rows @ self.landmarks.T)
        return np.asarray(np.exp(squares * np.float32(-self.gamma)) @ self.weights, dtype=np.float32)


def standardise(rows: FloatArray, center: FloatArray, scale: FloatArray) -> FloatArray:
    """Rows (..., d) in standard deviations from the centre, clipped; an absent value is at the centre."""
    scaled = np.asarray((rows - center) / scale, dtype=np.float32)
    scaled[np.isnan(scaled)] = 0
    return np.minimum(np.maximum(scaled, -CLIP), CLIP)
