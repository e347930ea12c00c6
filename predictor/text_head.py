"""The text head: from hashed n-grams and hand-made features to a few dense numbers, evaluated in numpy.

Fitted by scikit-learn (`training.fit_head`): TF-IDF, then columns of a truncated SVD and of ridge regressions,
all folded into one matrix, and a kernel regression on top of one of them. scikit-learn's own path costs 0.2 to
10 ms a row; this one tens of microseconds.
"""

import hashlib
import io
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from predictor.features.ngrams import IndexArray
from predictor.features.schema import FloatArray
from predictor.kernel import Kernel

MAX_OUTPUTS: Final = 64
_NO_KERNEL: Final = -1


class TextHead(msgspec.Struct, frozen=True):
    """`weights` is (2^bits, outputs), `idf` (2^bits,), `bias` (outputs,); `names` says what each output is.

    A name carries the projection that made it (`text.1f0c9a2b.svd07`), so that logged outputs of one head are
    never taken for another's, while columns handed on from an earlier head keep their names. The kernel, where
    there is one, adds its share to the output `kernel_output`.
    """

    bits: int
    names: tuple[str, ...]
    idf: FloatArray
    weights: FloatArray
    bias: FloatArray
    kernel: Kernel | None = None
    kernel_output: int = _NO_KERNEL

    def transform(self, bins: IndexArray, counts: npt.NDArray[np.float32], fixed: FloatArray) -> FloatArray:
        """Dense outputs (len(names),) of one text's occupied bins, their counts, and its fixed features."""
        values = tfidf(counts, self.idf[bins])
        outputs = np.asarray(values @ self.weights.take(bins, axis=0) + self.bias, dtype=np.float32)
        if self.kernel is not None:
            outputs[self.kernel_output] += self.kernel.evaluate(fixed)
        return outputs

    def to_bytes(self) -> bytes:
        """A compressed .npz in half precision, holding only the bins that training saw."""
        used = np.flatnonzero(np.any(self.weights != 0, axis=1))
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "shape": np.array([self.bits, self.kernel_output]),
            "names": np.array(self.names, dtype=np.str_),
            "bins": used.astype(np.uint32),
            "idf": self.idf.astype(np.float16),
            "weights": self.weights[used].astype(np.float16),
            "bias": self.bias,
        }
        if self.kernel is not None:
            arrays |= _kernel_arrays(self.kernel)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises ValueError, KeyError or OSError for anything else; no pickle."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            bits, kernel_output = (int(value) for value in arrays["shape"])
            names = tuple(str(name) for name in arrays["names"])
            _check_sizes(bits, names, kernel_output)
            weights = np.zeros((1 << bits, len(names)), dtype=np.float32)
            weights[arrays["bins"].astype(np.intp)] = arrays["weights"]
            head = cls(
                bits=bits,
                names=names,
                idf=_floats(arrays["idf"], (1 << bits,)),
                weights=weights,
                bias=_floats(arrays["bias"], (len(names),)),
                kernel=_read_kernel(arrays) if kernel_output != _NO_KERNEL else None,
                kernel_output=kernel_output,
            )
        return head


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


def _kernel_arrays(kernel: Kernel) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "kernel_columns": kernel.columns.astype(np.uint32),
        "kernel_center": kernel.center,
        "kernel_scale": kernel.scale,
        "kernel_landmarks": kernel.landmarks,
        "kernel_weights": kernel.weights,
        "kernel_gamma": np.array(kernel.gamma),
    }


def _read_kernel(arrays: "np.lib.npyio.NpzFile") -> Kernel:
    columns = arrays["kernel_columns"].astype(np.intp)
    landmarks = arrays["kernel_landmarks"].astype(np.float32)
    if landmarks.ndim != 2 or landmarks.shape[1] != len(columns):
        raise ValueError(f"the kernel has {len(columns)} inputs and landmarks of shape {landmarks.shape}")
    return Kernel(
        columns=columns,
        center=_floats(arrays["kernel_center"], columns.shape),
        scale=_floats(arrays["kernel_scale"], columns.shape),
        landmarks=landmarks,
        norms=np.einsum("ij,ij->i", landmarks, landmarks),
        weights=_floats(arrays["kernel_weights"], (len(landmarks),)),
        gamma=float(arrays["kernel_gamma"]),
    )


def _floats(array: npt.NDArray[np.generic], shape: tuple[int, ...]) -> FloatArray:
    if array.shape != shape:
        raise ValueError(f"an array of the text head has shape {array.shape}, not {shape}")
    return array.astype(np.float32)


def _check_sizes(bits: int, names: tuple[str, ...], kernel_output: int) -> None:
    if not 8 <= bits <= 20:
        raise ValueError(f"the text head has 2^{bits} bins; between 2^8 and 2^20 are allowed")
    if len(names) > MAX_OUTPUTS:
        raise ValueError(f"the text head has {len(names)} outputs; at most {MAX_OUTPUTS} are allowed")
    if not _NO_KERNEL <= kernel_output < len(names):
        raise ValueError(f"the text head has no output {kernel_output} for its kernel")
