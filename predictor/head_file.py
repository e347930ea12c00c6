"""A text head as a file: one compressed .npz, read without pickle and with every shape checked."""

import io
import zipfile
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from predictor.features.extractor import FIXED_NAMES
from predictor.features.schema import FloatArray
from predictor.kernel import Kernel
from predictor.text_head import MAX_OUTPUTS, TextHead

_MAX_KERNELS: Final = 4
_MAX_BYTES: Final = 1 << 30
Arrays = dict[str, npt.NDArray[np.generic]]


def head_to_bytes(head: TextHead) -> bytes:
    """The head in half precision, holding only the bins that training saw."""
    used = np.flatnonzero(np.any(head.weights != 0, axis=1))
    arrays: Arrays = {
        "sizes": np.array([head.bits, len(head.kernels)]),
        "names": np.array(head.names, dtype=np.str_),
        "idf": head.idf.astype(np.float16),
        "bins": used.astype(np.uint32),
        "weights": head.weights[used].astype(np.float16),
        "bias": head.bias,
        "taught": head.taught,
        "unseen": head.unseen.astype(np.float16),
    }
    for number, kernel in enumerate(head.kernels):
        arrays |= _kernel_arrays(f"kernel{number}_", kernel)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def head_from_bytes(data: bytes) -> TextHead:
    """Read what `head_to_bytes` wrote; of anything else numpy and zipfile raise what they please."""
    check_unpacked(data)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        bits, kernels = (int(value) for value in arrays["sizes"])
        names = tuple(str(name) for name in arrays["names"])
        _check_sizes(bits, names, kernels)
        weights = np.zeros((1 << bits, len(names)), dtype=np.float32)
        bins = _indices(arrays["bins"], 1 << bits)
        weights[bins] = finite_floats(arrays["weights"], (len(bins), len(names)))
        head = TextHead(
            bits=bits,
            names=names,
            idf=finite_floats(arrays["idf"], (1 << bits,)),
            weights=weights,
            bias=finite_floats(arrays["bias"], (len(names),)),
            kernels=tuple(_read_kernel(arrays, f"kernel{number}_", len(names)) for number in range(kernels)),
            taught=_hashes(arrays["taught"]),
        )
        return _with_unseen(arrays, head)


def _kernel_arrays(prefix: str, kernel: Kernel) -> Arrays:
    arrays: Arrays = {
        "inputs": np.array([FIXED_NAMES[column] for column in kernel.columns], dtype=np.str_),
        "center": kernel.center,
        "scale": kernel.scale,
        "landmarks": kernel.landmarks,
        "gamma": np.array(kernel.gamma),
        "weights": kernel.weights,
        "outputs": kernel.outputs.astype(np.uint32),
    }
    return {prefix + name: array for name, array in arrays.items()}


def _read_kernel(arrays: "np.lib.npyio.NpzFile", prefix: str, width: int) -> Kernel:
    inputs = [str(name) for name in arrays[prefix + "inputs"]]
    unknown = set(inputs) - set(FIXED_NAMES)
    if unknown:
        raise ValueError(f"a kernel reads unknown features: {', '.join(sorted(unknown))}")
    outputs = _indices(arrays[prefix + "outputs"], width)
    given = arrays[prefix + "landmarks"]
    landmarks = finite_floats(given, (len(given), len(inputs)))
    return Kernel(
        columns=np.array([FIXED_NAMES.index(name) for name in inputs], dtype=np.intp),
        center=finite_floats(arrays[prefix + "center"], (len(inputs),)),
        scale=finite_floats(arrays[prefix + "scale"], (len(inputs),)),
        landmarks=landmarks,
        norms=np.einsum("ij,ij->i", landmarks, landmarks),
        gamma=float(finite_floats(arrays[prefix + "gamma"], ())),
        weights=finite_floats(arrays[prefix + "weights"], (len(landmarks), len(outputs))),
        outputs=outputs,
    )


def check_unpacked(data: bytes) -> None:
    """Raises ValueError for an .npz of more than a gibibyte: a few bytes of zip can hold it.

    zipfile reads no more of a member than its directory says.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        size = sum(member.file_size for member in packed.infolist())
    if size > _MAX_BYTES:
        raise ValueError(f"an .npz unpacks to more than {_MAX_BYTES >> 20} MiB")


def finite_floats(array: npt.NDArray[np.generic], shape: tuple[int, ...]) -> FloatArray:
    """The array in single precision. Raises ValueError where it has another shape, or numbers that are not finite."""
    if array.shape != shape:
        raise ValueError(f"an array has shape {array.shape}, not {shape}")
    floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise ValueError("an array holds numbers that are not finite")
    return floats


def _indices(array: npt.NDArray[np.generic], limit: int) -> npt.NDArray[np.intp]:
    places = array.astype(np.intp)
    if places.ndim != 1 or (len(places) and not (places.min() >= 0 and places.max() < limit)):
        raise ValueError(f"the text head holds a place outside its {limit} columns or bins")
    return places


def _hashes(array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint32]:
    hashes = array.astype(np.uint32)
    if array.ndim != 1 or array.dtype != np.uint32 or (hashes[1:] <= hashes[:-1]).any():
        raise ValueError("the text head's list of prompts holds no 32-bit hashes in ascending order")
    return hashes


def _with_unseen(arrays: "np.lib.npyio.NpzFile", head: TextHead) -> TextHead:
    """A head that was made before this was kept lends its columns as if nothing had taught them."""
    if "unseen" not in arrays:
        return msgspec.structs.replace(head, taught=head.taught[:0])
    unseen = finite_floats(arrays["unseen"], (len(head.taught), len(head.priors) if len(head.taught) else 0))
    return msgspec.structs.replace(head, unseen=unseen)


def _check_sizes(bits: int, names: tuple[str, ...], kernels: int) -> None:
    if not 8 <= bits <= 20:
        raise ValueError(f"the text head has 2^{bits} bins; between 2^8 and 2^20 are allowed")
    if not len(set(names)) == len(names) <= MAX_OUTPUTS:
        raise ValueError(
            f"the text head has {len(names)} outputs; at most {MAX_OUTPUTS} of different names are allowed"
        )
    if not 0 <= kernels <= _MAX_KERNELS:
        raise ValueError(f"the text head has {kernels} kernels; at most {_MAX_KERNELS} are allowed")
