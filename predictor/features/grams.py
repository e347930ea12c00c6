"""Hashed n-gram counts of one prompt, and their form in the traffic log (text mode `hashed`).

They are enough to fit a new text head. They are pseudonymous, not anonymous: whoever has a list of guesses can
hash it and compare.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from predictor.features.ngrams import IndexArray

_MOST_BITS: Final = 16
_MOST_COUNT: Final = 255
_BYTES_PER_BIN: Final = 3


class Grams(NamedTuple):
    """The occupied `bins` of a table of 2^`bits`, ascending, and how many n-grams fell into each."""

    bits: int
    bins: IndexArray
    counts: npt.NDArray[np.float32]


def pack_grams(grams: Grams) -> bytes:
    """One byte of bits, then the bins (little-endian uint16), then their counts (uint8, 255 and more is 255).

    Raises ValueError where the table has more than 2^16 bins.
    """
    if grams.bits > _MOST_BITS:
        raise ValueError(f"a table of 2^{grams.bits} bins cannot be packed, 2^{_MOST_BITS} is the most")
    counts = np.minimum(grams.counts, _MOST_COUNT).astype(np.uint8)
    return bytes([grams.bits]) + grams.bins.astype("<u2").tobytes() + counts.tobytes()


def unpack_grams(data: bytes) -> Grams:
    """What `pack_grams` packed; raises ValueError where it is nothing of the kind."""
    size, rest = divmod(len(data) - 1, _BYTES_PER_BIN)
    if rest or size < 0 or not 0 < data[0] <= _MOST_BITS:
        raise ValueError(f"{len(data)} bytes are no packed n-gram counts")
    bins = np.frombuffer(data, dtype="<u2", count=size, offset=1).astype(np.intp)
    if size and bins[-1] >> data[0]:
        raise ValueError(f"packed n-gram counts name a bin beyond 2^{data[0]}")
    counts = np.frombuffer(data, dtype=np.uint8, offset=1 + 2 * size).astype(np.float32)
    return Grams(data[0], bins, counts)
