"""Numbers read off the focus text itself: its make-up, its layout, what it asks for and how much of it."""

import math
from operator import mul
from typing import Final

import numpy as np

from predictor.features.cues import CUE_GROUPS, UNITS, find_cues
from predictor.features.guess import guess_log_tokens
from predictor.features.layout import LAYOUT_NAMES, layout_features
from predictor.features.tokens import Tokens

# Byte classes whose counts become features. Lead bytes of UTF-8 stand for the scripts that use them.
_BYTE_CLASSES: Final[dict[str, bytes]] = {
    "upper": bytes(range(65, 91)),
    "digit": bytes(range(48, 58)),
    "space": b" \t",
    "newline": b"\n",
    "full_stop": b".",
    "comma": b",",
    "question_mark": b"?",
    "exclamation": b"!",
    "colon": b":",
    "semicolon": b";",
    "quote": b"\"'",
    "bracket": b"()[]",
    "brace": b"{}",
    "dollar": b"$",
    "backslash": b"\\",
    "equals": b"=",
    "operator": b"+-*/^%",
    "angle": b"<>",
    "hash": b"#",
    "backtick": b"`",
    "bar": b"|",
    "underscore": b"_",
    "latin_accent": bytes(range(0xC3, 0xC8)),
    "greek_cyrillic": bytes(range(0xCE, 0xD4)),
    "hebrew_arabic": bytes(range(0xD6, 0xDC)),
    "indic_thai": b"\xe0",
    "punctuation_wide": b"\xe2\xef",
    "cjk": bytes(range(0xE3, 0xEA)),
    "hangul": bytes(range(0xEA, 0xEE)),
    "emoji": b"\xf0",
}
_SHARES: Final = ("upper", "digit", "space", "bracket", "operator", "quote")
_WORD_NAMES: Final = (
    "words", "mean_word_bytes", "numbers", "number_digits", "max_number_digits",
    "distinct_numbers", "largest_number", "log_numbers",
)  # fmt: skip
# About how many tokens one unit of an answer takes: in the order of UNITS: turns "three paragraphs" and
# "200 words" into one number.
_UNIT_TOKENS: Final = (1.35, 24.0, 110.0, 28.0, 1.0)

# Counts, whose logarithm is the feature.
COUNT_NAMES: Final = (
    *(f"count.{name}" for name in _BYTE_CLASSES),
    *(f"cue.{group}" for group in CUE_GROUPS),
    *(f"asked.{unit}s" for unit in UNITS),
    "asked.length_tokens",
)
LEXICAL_NAMES: Final = (
    *COUNT_NAMES,
    *(f"share.{name}" for name in _SHARES),
    *(f"text.{name}" for name in _WORD_NAMES),
    "asked.guess",
    *LAYOUT_NAMES,
)

_CLASS_OF: Final = bytes(
    next((number for number, members in enumerate(_BYTE_CLASSES.values(), start=1) if byte in members), 0)
    for byte in range(256)
)
_SHARE_PLACES: Final = tuple(list(_BYTE_CLASSES).index(name) for name in _SHARES)
_SPACE, _NEWLINE, _DIGIT = (list(_BYTE_CLASSES).index(name) for name in ("space", "newline", "digit"))
_DIGITS_ALONE: Final = bytes(byte if byte in b"0123456789" else ord(" ") for byte in range(256))
_NUMBERS_READ: Final = 40
_NUMBER_DIGITS: Final = 12
_NO_NUMBERS: Final = [0.0] * 6


def lexical_features(tokens: Tokens) -> list[float]:
    """One value per LEXICAL_NAMES; those of COUNT_NAMES are plain counts yet, shares are in [0, 1]."""
    codes = np.frombuffer(tokens.raw.translate(_CLASS_OF), dtype=np.uint8)
    counts: list[float] = np.bincount(codes, minlength=len(_BYTE_CLASSES) + 1).tolist()[1:]
    cues, asked = find_cues(tokens)
    size, words = len(tokens.raw), len(tokens.words)
    length = max(map(mul, asked, _UNIT_TOKENS))
    return [
        *counts,
        *cues,
        *asked,
        length,
        *[counts[place] / size for place in _SHARE_PLACES],
        math.log1p(words),
        (size - counts[_SPACE] - counts[_NEWLINE]) / words,
        *(_number_features(tokens.raw) if counts[_DIGIT] else _NO_NUMBERS),
        guess_log_tokens(length, cues, size),
        *layout_features(tokens.raw),
    ]


def _number_features(raw: bytes) -> list[float]:
    """How many numbers there are, their digits, how many different ones, the largest, the sum of logarithms: what
    work there is to be done."""
    # Runs of digits; a regular expression takes ten times as long.
    numbers = raw.translate(_DIGITS_ALONE).split()
    digits = list(map(len, numbers))
    distinct = set(numbers[:_NUMBERS_READ])
    values = [math.log1p(int(text[:_NUMBER_DIGITS])) for text in distinct]
    return [
        math.log1p(len(numbers)),
        sum(digits) / len(digits),
        math.log1p(max(digits)),
        math.log1p(len(distinct)),
        max(values),
        math.fsum(values),
    ]
