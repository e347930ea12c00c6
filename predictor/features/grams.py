"""Hashed n-grams of one prompt, and their form in the traffic log (text mode `hashed`).

They are enough to fit a new text head. They are pseudonymous, not anonymous: whoever has a list of guesses can
hash it and compare.
"""

from typing import Final, NamedTuple

import numpy as np

from predictor.features.tokens import UintArray

_MOST_BITS: Final = 16
_BYTES_PER_BIN: Final = 2


class Grams(NamedTuple):
    """The occupied `bins` of a table of 2^`bits`, ascending."""

    bits: int
    bins: UintArray


def pack_grams(grams: Grams) -> bytes:
    """One byte of bits, then the bins as little-endian uint16. Raises ValueError for more than 2^16 bins."""
    if grams.bits > _MOST_BITS:
        raise ValueError(f"a table of 2^{grams.bits} bins cannot be packed, 2^{_MOST_BITS} is the most")
    return bytes([grams.bits]) + grams.bins.astype("<u2").tobytes()


def unpack_grams(data: bytes) -> Grams:
    """What `pack_grams` packed; raises ValueError where it is nothing of the kind."""
    size, rest = divmod(len(data) - 1, _BYTES_PER_BIN)
    if rest or size < 0 or not 0 < data[0] <= _MOST_BITS:
        raise ValueError(f"{len(data)} bytes are no packed n-grams")
    bins = np.frombuffer(data, dtype="<u2", count=size, offset=1).astype(np.uint32)
    if size and (bins[-1] >> data[0] or (bins[1:] <= bins[:-1]).any()):
        raise ValueError(f"packed n-grams are not places of a table of 2^{data[0]} in ascending order")
    return Grams(data[0], bins)
