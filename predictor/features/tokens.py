"""A text cut into words and marks, and hashed n-grams of it, in a few dozen numpy calls and no loop.

A word's hash is a polynomial over its bytes, read off one prefix sum: with an odd base r, invertible modulo 2^32,
hash(b[s:e]) = r^-s * sum(b[k] * r^k for s <= k < e). A last multiplication brings all its bits to the high ones,
which choose the bin.
"""

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

UintArray = npt.NDArray[np.uint32]
IndexArray = npt.NDArray[np.intp]
ByteArray = npt.NDArray[np.uint8]

# No view of a prompt has more: 1,500 characters of at most four bytes.
MAX_BYTES: Final = 6_144
CHAR_GRAM: Final = 4

_BASE: Final = 0x01000193
# Case and the value of digits say little of length; how many digits a number has is kept.
_FOLD: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ123456789", b"abcdefghijklmnopqrstuvwxyz000000000")
_LETTERS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_'") | frozenset(range(128, 256))
# A token is a run of one class: 0 white space and control characters, 1 letters, 2 other marks. All bytes beyond
# ASCII count as letters, so that no script loses its words.
_CLASSES: Final = bytes(1 if byte in _LETTERS else 2 if 33 <= byte < 127 else 0 for byte in range(256))


def _powers(base: int) -> UintArray:
    factors = np.full(MAX_BYTES + 1, base, dtype=np.uint32)
    factors[0] = 1
    return np.multiply.accumulate(factors, dtype=np.uint32)


def scalar(value: int) -> UintArray:
    """An array of no dimension: numpy takes it as it is, where it looks a scalar's type up in every call."""
    return np.array(value, dtype=np.uint32)


_POWERS: Final = _powers(_BASE)
_INVERSES: Final = _powers(pow(_BASE, -1, 2**32))
_SHIFT: Final = scalar(15)
_MIX: Final = scalar(0x2C1B3C6D)
_PAIR: Final = scalar(0x9E3779B1)
_PAIR_MIX: Final = scalar(0x85EBCA77)
_CHARS: Final = scalar(0x2545F491)
_SYSTEM: Final = scalar(0x94D049BB)
_CONTEXT: Final = scalar(0x1CE4E5B9)
# The first three and the last three words once more, and the pairs at either edge.
_EDGE_WORDS: Final = np.array([0, 1, 2, -3, -2, -1])
_WORD_SALTS: Final = np.array([0x85EBCA6B] * 3 + [0x27D4EB2F] * 3, dtype=np.uint32)
_EDGE_PAIRS: Final = np.array([0, 1, -2, -1])
_PAIR_SALTS: Final = np.array([0xC2B2AE35] * 2 + [0x165667B1] * 2, dtype=np.uint32)
_SHIFTS: Final = tuple(scalar(32 - bits) for bits in range(32))
_NONE: Final = np.zeros(0, dtype=np.uint32)
_SYSTEMS_KEPT: Final = 1_024


class Tokens(NamedTuple):
    """`raw` are a text's bytes, `folded` the same in lower case with every digit 0. `starts` and `ends` are the
    byte offsets of the tokens, `words` has a hash for each, `pairs` one for every two neighbours."""

    raw: bytes
    folded: bytes
    starts: IndexArray
    ends: IndexArray
    words: UintArray
    pairs: UintArray


def encode(text: str) -> bytes:
    """UTF-8, cut at MAX_BYTES; a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace")[:MAX_BYTES]


def tokenize(raw: bytes) -> Tokens:
    """Cut at most MAX_BYTES of text into tokens and hash each."""
    folded = raw.translate(_FOLD)
    size = len(raw)
    sums = np.zeros(size + 1, dtype=np.uint32)
    np.add.accumulate(np.frombuffer(folded, dtype=np.uint8) * _POWERS[:size], out=sums[1:])
    classes = np.frombuffer(b"\0%b\0" % folded.translate(_CLASSES), dtype=np.uint8)
    # Where the class changes a run begins and the one before it ends; white space is left out.
    edges = (classes[1:] != classes[:-1]).nonzero()[0]
    runs = classes[1:].take(edges).nonzero()[0]
    starts, ends = edges.take(runs), edges.take(runs + 1)
    words = (sums.take(ends) - sums.take(starts)) * _INVERSES.take(starts)
    words = (words ^ (words >> _SHIFT)) * _MIX
    pairs = (words[:-1] * _PAIR + words[1:]) * _PAIR_MIX
    return Tokens(raw, folded, starts, ends, words, pairs)


def hash_words(text: str) -> int:
    """The hash that `tokenize` gives one word, or two neighbours, for look-up tables."""
    tokens = tokenize(encode(text))
    return int((tokens.pairs if len(tokens.words) == 2 else tokens.words)[0])


def focus_grams(tokens: Tokens) -> list[UintArray]:
    """Hashes of words, pairs of neighbours, characters, and once more of the words and pairs at both edges."""
    words, pairs = tokens.words, tokens.pairs
    grams = [words, pairs, _char_grams(tokens.folded)]
    if len(pairs) >= 2:
        grams.append(words.take(_EDGE_WORDS, mode="wrap") * _WORD_SALTS)
        grams.append(pairs.take(_EDGE_PAIRS, mode="wrap") * _PAIR_SALTS)
    return grams


@lru_cache(maxsize=_SYSTEMS_KEPT)
def system_grams(system: str) -> UintArray:
    """Hashes of a system prompt's words, apart from the focus's; kept, for few prompts serve many requests."""
    return tokenize(encode(system)).words * _SYSTEM


def context_grams(context: str) -> UintArray:
    """Hashes of the words of the turn before, kept apart from the focus's."""
    return tokenize(encode(context)).words * _CONTEXT if context else _NONE


def occupied_bins(grams: list[UintArray], bits: int) -> UintArray:
    """The bins of a table of 2^bits that the hashes fall into, ascending, each once."""
    bins: UintArray = np.concatenate(grams) >> _SHIFTS[bits]
    bins.sort()
    fresh = np.empty(len(bins), dtype=np.bool_)
    fresh[:1] = True
    np.not_equal(bins[1:], bins[:-1], out=fresh[1:])
    return bins.take(fresh.nonzero()[0])


def _char_grams(folded: bytes) -> UintArray:
    """Every four neighbouring bytes read as one number; the product's high bits depend on all of its bits."""
    count = len(folded) - CHAR_GRAM + 1
    if count < 1:
        return _NONE
    return np.ndarray((count,), "<u4", folded, 0, (1,)) * _CHARS
