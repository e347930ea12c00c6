"""The text head: from hashed n-grams and hand-made features to a few dense numbers, evaluated in numpy.

Fitted by scikit-learn (`training.fit_head`): TF-IDF, then columns of a truncated SVD and of ridge regressions,
all folded into one matrix, and kernel regressions on top of some. scikit-learn's own path costs 0.2 to 10 ms a
row; this one tens of microseconds.
"""

import hashlib
import math
from typing import Final

import msgspec
import numpy as np

from predictor.features.schema import FloatArray
from predictor.features.tokens import UintArray
from predictor.kernel import FoldedKernel, Kernel

MAX_OUTPUTS: Final = 64
# In the name of an output that other people's prompts have taught.
PRIOR: Final = ".prior_"
# More than a view's characters can occupy: 1,500 times 4 bytes of focus, once as bytes and twice as words.
_MOST_BINS: Final = 1 << 15


class TextHead(msgspec.Struct, frozen=True):
    """`weights` is (2^bits, outputs), `idf` (2^bits,), `bias` (outputs,); `names` says what each output is.

    A name carries the projection that made it (`text.1f0c9a2b.svd07`), so that logged outputs of one head are
    never taken for another's, while columns handed on from an earlier head, the prior ones, keep their names.
    `taught` are 32-bit hashes of the prompts that the prior columns were fitted on, ascending: of those they know too
    much, so row i of `unseen` (taught, prior columns) is what they would say of prompt i if they had not seen it.
    """

    bits: int
    names: tuple[str, ...]
    idf: FloatArray
    weights: FloatArray
    bias: FloatArray
    kernels: tuple[Kernel, ...] = ()
    taught: UintArray = msgspec.field(default_factory=lambda: np.zeros(0, dtype=np.uint32))
    unseen: FloatArray = msgspec.field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    @property
    def priors(self) -> list[int]:
        """Which outputs are prior columns."""
        return [place for place, name in enumerate(self.names) if PRIOR in name]


class HeadEvaluator:
    """A text head made ready for single rows.

    An occupied bin counts once, however often its n-gram stands in the text, so the whole of TF-IDF with its
    scaling to unit length is one sum over the rows of one table, whose last column sums up the squares.
    """

    def __init__(self, head: TextHead) -> None:
        self._table = np.ascontiguousarray(
            np.column_stack([head.weights * head.idf[:, None], head.idf**2]), dtype=np.float32
        )
        self._ones = np.ones(min(_MOST_BINS, 1 << head.bits), dtype=np.float32)
        self._bias = head.bias
        self._kernels = [(kernel.outputs, FoldedKernel.of(kernel)) for kernel in head.kernels]

    def transform(self, bins: UintArray, fixed: FloatArray) -> FloatArray:
        """Dense outputs of one text's occupied bins, each given once, and its fixed features."""
        sums: FloatArray = self._ones[: len(bins)] @ self._table.take(bins, axis=0)
        square = float(sums[-1])
        outputs: FloatArray = sums[:-1] * np.float32(1 / math.sqrt(square) if square > 0 else 0) + self._bias
        for places, kernel in self._kernels:
            outputs[places] += kernel.evaluate(fixed)
        return outputs


def projection_id(*arrays: FloatArray) -> str:
    """Eight hexadecimal digits that name a fitted projection."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:8]
