"""Tokens and hashed n-grams of a text in a dozen numpy calls, the same for training and for serving.

Words are hashed by a polynomial over their bytes, read off one prefix sum: with an odd base r, invertible
modulo 2^32, hash(b[s:e]) = r^-s * sum(b[k] * r^k for s <= k < e). Nothing loops over tokens.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

UintArray = npt.NDArray[np.uint32]
IndexArray = npt.NDArray[np.intp]
ByteArray = npt.NDArray[np.uint8]

MAX_BYTES: Final = 12_288
CHAR_GRAM: Final = 4
EDGE_TOKENS: Final = 8

_BASE: Final = 0x01000193
_WORD: Final = 1
_PUNCTUATION: Final = 2


def _powers(base: int) -> UintArray:
    factors = np.full(MAX_BYTES + 1, base, dtype=np.uint32)
    factors[0] = 1
    return np.multiply.accumulate(factors, dtype=np.uint32)


def _byte_classes() -> ByteArray:
    classes = np.zeros(256, dtype=np.uint8)
    classes[33:127] = _PUNCTUATION
    classes[list(b"abcdefghijklmnopqrstuvwxyz0123456789_'")] = _WORD
    classes[128:] = _WORD
    return classes


_POWERS: Final = _powers(_BASE)
_INVERSES: Final = _powers(pow(_BASE, -1, 2**32))
_CLASSES: Final = _byte_classes()
# Case and the value of digits say little of length; how many digits a number has is kept.
_FOLD: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ123456789", b"abcdefghijklmnopqrstuvwxyz000000000")

_BIGRAM_LEFT: Final = np.uint32(0x9E3779B1)
_SALTS: Final = {
    name: np.uint32(salt)
    for name, salt in (
        ("first", 0x85EBCA6B),
        ("first_pair", 0xC2B2AE35),
        ("last", 0x27D4EB2F),
        ("last_pair", 0x165667B1),
        ("char", 0x2545F491),
        ("system", 0x94D049BB),
        ("context", 0x1CE4E5B9),
    )
}


class Tokens(NamedTuple):
    """A text cut into words and punctuation marks.

    `raw` are its bytes, `folded` the same in lower case with every digit 0, `starts` and `ends` the byte
    offsets of the tokens, `hashes` one 32-bit hash per token, `sums` the prefix sums that the hashes come from.
    """

    raw: ByteArray
    folded: ByteArray
    starts: IndexArray
    ends: IndexArray
    hashes: UintArray
    sums: UintArray


def encode(text: str) -> bytes:
    """UTF-8, cut at MAX_BYTES; a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace")[:MAX_BYTES]


def tokenize(raw: bytes) -> Tokens:
    """Cut at most MAX_BYTES of text into tokens and hash each."""
    folded = np.frombuffer(raw.translate(_FOLD), dtype=np.uint8)
    size = len(folded)
    sums = np.zeros(size + 1, dtype=np.uint32)
    np.cumsum(folded * _POWERS[:size], dtype=np.uint32, out=sums[1:])
    classes = np.zeros(size + 2, dtype=np.uint8)
    classes[1:-1] = _CLASSES[folded]
    inside = classes == _WORD
    single = classes[1:-1] == _PUNCTUATION
    starts = np.flatnonzero((inside[1:-1] & ~inside[:-2]) | single)
    ends = np.flatnonzero((inside[1:-1] & ~inside[2:]) | single) + 1
    hashes = mix((sums[ends] - sums[starts]) * _INVERSES[starts])
    return Tokens(np.frombuffer(raw, dtype=np.uint8), folded, starts, ends, hashes, sums)


def mix(hashes: UintArray) -> UintArray:
    """Spread a polynomial hash over all 32 bits, the high ones above all."""
    mixed = (hashes ^ (hashes >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    return mixed ^ (mixed >> np.uint32(12))


def hash_word(word: str) -> int:
    """The hash that `tokenize` gives a single word, for look-up tables."""
    return int(tokenize(encode(word)).hashes[0])


def focus_grams(tokens: Tokens) -> list[UintArray]:
    """Hashes of the n-grams of a text: words, pairs, characters, and those at its two edges apart."""
    words = tokens.hashes
    pairs = _pairs(words)
    return [
        words,
        pairs,
        words[:EDGE_TOKENS] * _SALTS["first"],
        pairs[:EDGE_TOKENS] * _SALTS["first_pair"],
        words[-EDGE_TOKENS:] * _SALTS["last"],
        pairs[-EDGE_TOKENS:] * _SALTS["last_pair"],
        _char_grams(tokens),
    ]


def side_grams(text: str, side: str) -> list[UintArray]:
    """Hashes of the words and pairs of the system prompt or the context, kept apart from the focus's."""
    if not text:
        return []
    words = tokenize(encode(text)).hashes
    salt = _SALTS[side]
    return [words * salt, _pairs(words) * salt]


def count_bins(grams: list[UintArray], bits: int) -> tuple[IndexArray, npt.NDArray[np.float32]]:
    """The occupied bins of a table of 2^bits, and how many n-grams fell into each."""
    bins = np.concatenate(grams) >> np.uint32(32 - bits)
    counts = np.bincount(bins, minlength=1 << bits)
    occupied = np.flatnonzero(counts)
    return occupied, counts[occupied].astype(np.float32)


def _pairs(words: UintArray) -> UintArray:
    return mix(words[:-1] * _BIGRAM_LEFT + words[1:])


def _char_grams(tokens: Tokens) -> UintArray:
    sums, size = tokens.sums, len(tokens.folded)
    if size < CHAR_GRAM:
        return tokens.hashes[:0]
    grams = (sums[CHAR_GRAM:] - sums[:-CHAR_GRAM]) * _INVERSES[: size - CHAR_GRAM + 1]
    return mix(grams) * _SALTS["char"]
