"""The text head: a sparse linear map from hashed n-grams to a few dense numbers, evaluated in numpy.

Fitted by scikit-learn (`training.fit_head`): sublinear TF-IDF, then columns of a truncated SVD and of ridge
regressions, all folded into one matrix. scikit-learn's own path costs 0.2 to 10 ms a row; this one tens of us.
"""

import hashlib
import io
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from predictor.features.ngrams import IndexArray
from predictor.features.schema import FloatArray

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

    def transform(self, bins: IndexArray, counts: npt.NDArray[np.float32]) -> FloatArray:
        """Dense outputs (len(names),) of one text's occupied bins and their counts."""
        if len(self.names) == 0:
            return self.bias
        values = tfidf(counts, self.idf[bins])
        return np.asarray(values @ self.weights[bins] + self.bias, dtype=np.float32)

    def to_bytes(self) -> bytes:
        """A compressed .npz in half precision, holding only the bins that training saw."""
        used = np.flatnonzero(np.any(self.weights != 0, axis=1))
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            bits=np.array(self.bits),
            names=np.array(self.names, dtype=np.str_),
            bins=used.astype(np.uint32),
            idf=self.idf[used].astype(np.float16),
            weights=self.weights[used].astype(np.float16),
            bias=self.bias,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises ValueError, KeyError or OSError for anything else; no pickle."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            bits = int(arrays["bits"])
            names = tuple(str(name) for name in arrays["names"])
            _check_sizes(bits, names)
            used = arrays["bins"].astype(np.intp)
            idf = np.ones(1 << bits, dtype=np.float32)
            weights = np.zeros((1 << bits, len(names)), dtype=np.float32)
            idf[used] = arrays["idf"]
            weights[used] = arrays["weights"]
            bias = arrays["bias"].astype(np.float32)
        if bias.shape != (len(names),):
            raise ValueError(f"the text head has {len(names)} outputs and a bias of shape {bias.shape}")
        return cls(bits=bits, names=names, idf=idf, weights=weights, bias=bias)


def tfidf(counts: npt.NDArray[np.float32], idf: FloatArray) -> FloatArray:
    """Sublinear term frequency times inverse document frequency, scaled to unit length.

    The same numbers as scikit-learn's TfidfTransformer(sublinear_tf=True, norm="l2").
    """
    values = (np.log(counts) + np.float32(1)) * idf
    norm = np.sqrt(values @ values)
    return np.asarray(values / norm if norm > 0 else values, dtype=np.float32)


def projection_id(weights: FloatArray) -> str:
    """Eight hexadecimal digits that name a fitted projection."""
    return hashlib.sha256(np.ascontiguousarray(weights).tobytes()).hexdigest()[:8]


def empty_head(bits: int) -> TextHead:
    """A head without outputs, for data that has features and no text."""
    none = np.zeros(0, dtype=np.float32)
    table = np.zeros((1 << bits, 0), dtype=np.float32)
    return TextHead(bits=bits, names=(), idf=np.ones(1 << bits, dtype=np.float32), weights=table, bias=none)


def _check_sizes(bits: int, names: tuple[str, ...]) -> None:
    if not 8 <= bits <= 20:
        raise ValueError(f"the text head has 2^{bits} bins; between 2^8 and 2^20 are allowed")
    if len(names) > MAX_OUTPUTS:
        raise ValueError(f"the text head has {len(names)} outputs; at most {MAX_OUTPUTS} are allowed")
