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
EDGE_TOKENS: Final = 3

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
    offsets of the tokens, `words` one 32-bit hash per token, `pairs` one per two neighbours, `sums` the prefix
    sums that the hashes come from.
    """

    raw: bytes
    folded: ByteArray
    starts: IndexArray
    ends: IndexArray
    words: UintArray
    pairs: UintArray
    sums: UintArray

    def before(self, size: int) -> "Tokens":
        """The tokens of the first `size` bytes."""
        count = int(self.starts.searchsorted(size))
        return Tokens(
            self.raw[:size],
            self.folded[:size],
            self.starts[:count],
            self.ends[:count],
            self.words[:count],
            self.pairs[: max(0, count - 1)],
            self.sums[: size + 1],
        )


def encode(text: str) -> bytes:
    """UTF-8, cut at MAX_BYTES; a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace")[:MAX_BYTES]


def tokenize(raw: bytes) -> Tokens:
    """Cut at most MAX_BYTES of text into tokens and hash each."""
    folded = np.frombuffer(raw.translate(_FOLD), dtype=np.uint8)
    size = len(folded)
    sums = np.zeros(size + 1, dtype=np.uint32)
    (folded * _POWERS[:size]).cumsum(dtype=np.uint32, out=sums[1:])
    classes = np.zeros(size + 2, dtype=np.uint8)
    _CLASSES.take(folded, out=classes[1:-1])
    same = classes[1:] == classes[:-1]
    inner = classes[1:-1]
    # A token starts where the class changes, ends where it changes again; a punctuation mark stands alone.
    single = inner == _PUNCTUATION
    edges = ~same
    starts = ((edges[:-1] & (inner == _WORD)) | single).nonzero()[0]
    ends = ((edges[1:] & (inner == _WORD)) | single).nonzero()[0] + 1
    words = mix((sums[ends] - sums[starts]) * _INVERSES[starts])
    pairs = mix(words[:-1] * _BIGRAM_LEFT + words[1:])
    return Tokens(raw, folded, starts, ends, words, pairs, sums)


def mix(hashes: UintArray) -> UintArray:
    """Spread a polynomial hash over all 32 bits, the high ones above all."""
    mixed = (hashes ^ (hashes >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    return mixed ^ (mixed >> np.uint32(12))


def hash_words(text: str) -> int:
    """The hash that `tokenize` gives one word, or two neighbours, for look-up tables."""
    tokens = tokenize(encode(text))
    return int((tokens.pairs if len(tokens.words) == 2 else tokens.words)[0])


def focus_grams(tokens: Tokens) -> list[UintArray]:
    """Hashes of the n-grams of a text: words, pairs, characters, and those at its two edges apart."""
    words, pairs = tokens.words, tokens.pairs
    return [
        words,
        pairs,
        words[:EDGE_TOKENS] * _SALTS["first"],
        pairs[: EDGE_TOKENS - 1] * _SALTS["first_pair"],
        words[-EDGE_TOKENS:] * _SALTS["last"],
        pairs[1 - EDGE_TOKENS :] * _SALTS["last_pair"],
        _char_grams(tokens),
    ]


def side_grams(words: UintArray, side: str) -> UintArray:
    """Hashes of the words of the system prompt or the context, kept apart from the focus's."""
    return words * _SALTS[side]


def count_bins(grams: list[UintArray], bits: int) -> tuple[IndexArray, npt.NDArray[np.float32]]:
    """The occupied bins of a table of 2^bits in ascending order, and how many n-grams fell into each."""
    bins = np.concatenate(grams) >> np.uint32(32 - bits)
    bins.sort()
    last = np.empty(len(bins), dtype=np.bool_)
    last[-1:] = True
    np.not_equal(bins[1:], bins[:-1], out=last[:-1])
    places = last.nonzero()[0]
    counts = places.astype(np.float32)
    counts[1:] -= places[:-1]
    counts[:1] += 1
    return bins[places].astype(np.intp), counts


def _char_grams(tokens: Tokens) -> UintArray:
    sums, size = tokens.sums, len(tokens.folded)
    if size < CHAR_GRAM:
        return tokens.words[:0]
    grams = (sums[CHAR_GRAM:] - sums[:-CHAR_GRAM]) * _INVERSES[: size - CHAR_GRAM + 1]
    return mix(grams) * _SALTS["char"]
