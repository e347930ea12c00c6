"""A voice of the ensemble that is smooth where trees are coarse: a kernel regression on whole rows of features.

Some hundred answers are too few for trees: each split halves what is left to learn from. This one moves a little
with every feature, and what it was not told lies in the middle.
"""

import io
from typing import Final

import numpy as np

from predictor.features.schema import FloatArray, Schema, column_of
from predictor.head_file import check_unpacked, finite_floats
from predictor.kernel import FoldedKernel, Kernel

SUFFIX: Final = ".npz"


class Smooth:
    """Scores rows by a kernel with one sum, whose columns are those of the row."""

    def __init__(self, kernel: Kernel) -> None:
        self._columns = frozenset(kernel.columns.tolist())
        self._folded = FoldedKernel.of(kernel)

    def score(self, row: FloatArray) -> float:
        """The sum for one row."""
        return float(self._folded.evaluate(row)[0])

    def columns(self) -> frozenset[int]:
        """The columns that it reads."""
        return self._columns


def smooth_to_bytes(kernel: Kernel, schema: Schema) -> bytes:
    """The kernel as a compressed .npz, its columns by name."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        inputs=np.array([schema.names[column] for column in kernel.columns], dtype=np.str_),
        center=kernel.center,
        scale=kernel.scale,
        landmarks=kernel.landmarks,
        gamma=np.array(kernel.gamma),
        weights=kernel.weights,
    )
    return buffer.getvalue()


def smooth_from_bytes(data: bytes, schema: Schema) -> Smooth:
    """Read what `smooth_to_bytes` wrote; of anything else numpy and zipfile raise what they please."""
    check_unpacked(data)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        inputs = [str(name) for name in arrays["inputs"]]
        given = arrays["landmarks"]
        landmarks = finite_floats(given, (len(given), len(inputs)))
        return Smooth(
            Kernel(
                columns=np.array([column_of(schema, name) for name in inputs], dtype=np.intp),
                center=finite_floats(arrays["center"], (len(inputs),)),
                scale=finite_floats(arrays["scale"], (len(inputs),)),
                landmarks=landmarks,
                norms=np.einsum("ij,ij->i", landmarks, landmarks),
                gamma=float(finite_floats(arrays["gamma"], ())),
                weights=finite_floats(arrays["weights"], (len(landmarks), 1)),
                outputs=np.zeros(1, dtype=np.intp),
            )
        )
