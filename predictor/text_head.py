"""The text head: from hashed n-grams and hand-made features to a few dense numbers, evaluated in numpy.

Fitted by scikit-learn (`training.fit_head`): TF-IDF, then columns of a truncated SVD and of ridge regressions,
all folded into one matrix, and kernel regressions on top of some. scikit-learn's own path costs 0.2 to 10 ms a
row; this one tens of microseconds.
"""

import hashlib
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from predictor.features.ngrams import IndexArray
from predictor.features.schema import FloatArray
from predictor.kernel import Kernel

MAX_OUTPUTS: Final = 64


class TextHead(msgspec.Struct, frozen=True):
    """`weights` is (2^bits, outputs), `idf` (2^bits,), `bias` (outputs,); `names` says what each output is.

    A name carries the projection that made it (`text.1f0c9a2b.svd07`), so that logged outputs of one head are
    never taken for another's, while columns handed on from an earlier head keep their names.
    """

    bits: int
    names: tuple[str, ...]
    idf: FloatArray
    weights: FloatArray
    bias: FloatArray
    kernels: tuple[Kernel, ...] = ()

    def transform(self, bins: IndexArray, counts: npt.NDArray[np.float32], fixed: FloatArray) -> FloatArray:
        """Dense outputs (len(names),) of one text's occupied bins, their counts, and its fixed features."""
        values = tfidf(counts, self.idf[bins])
        outputs = np.asarray(values @ self.weights.take(bins, axis=0) + self.bias, dtype=np.float32)
        for kernel in self.kernels:
            outputs[kernel.outputs] += kernel.evaluate(fixed)
        return outputs


def tfidf(counts: npt.NDArray[np.float32], idf: FloatArray) -> FloatArray:
    """Sublinear term frequency times inverse document frequency, scaled to unit length.

    The same numbers as scikit-learn's TfidfTransformer(sublinear_tf=True, norm="l2").
    """
    values = (np.log(counts) + np.float32(1)) * idf
    norm = np.sqrt(values @ values)
    return np.asarray(values / norm if norm > 0 else values, dtype=np.float32)


def projection_id(*arrays: FloatArray) -> str:
    """Eight hexadecimal digits that name a fitted projection."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:8]
