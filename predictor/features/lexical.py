"""Numbers read off the focus text itself: its make-up, its layout, what it asks for and how much of it."""

import math
from typing import Final

import numpy as np

from predictor.features.cues import CUE_GROUPS, NUMBER_WORDS, UNITS, Cues, find_cues
from predictor.features.guess import guess_log_tokens
from predictor.features.layout import LAYOUT_NAMES, layout_features
from predictor.features.ngrams import Tokens, hash_words
from predictor.features.schema import FloatArray

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
    "words",
    "mean_word_bytes",
    "long_words",
    "numbers",
    "number_digits",
    "max_number_digits",
)
# About how many tokens one unit of an answer takes: turns "three paragraphs" and "200 words" into one number.
_UNIT_TOKENS: Final = dict(zip(UNITS, (1.35, 24.0, 110.0, 28.0, 1.0), strict=True))

LEXICAL_NAMES: Final = (
    *(f"count.{name}" for name in _BYTE_CLASSES),
    *(f"cue.{group}" for group in CUE_GROUPS),
    *(f"share.{name}" for name in _SHARES),
    *(f"text.{name}" for name in _WORD_NAMES),
    *(f"asked.{unit}s" for unit in UNITS),
    "asked.length_tokens",
    "asked.guess",
    *LAYOUT_NAMES,
)

_CLASS_MATRIX: Final = np.array(
    [[byte in members for members in _BYTE_CLASSES.values()] for byte in range(256)], dtype=np.float32
)
_SHARE_COLUMNS: Final = [list(_BYTE_CLASSES).index(name) for name in _SHARES]
_NUMBER_HASHES: Final = {hash_words(word): value for word, value in NUMBER_WORDS.items()}
_DIGIT: Final = ord("0")
_UNITS_READ: Final = 8


def lexical_features(tokens: Tokens) -> FloatArray:
    """One value per LEXICAL_NAMES. Sizes and counts are on a log scale, shares in [0, 1]."""
    histogram = np.bincount(np.frombuffer(tokens.raw, dtype=np.uint8), minlength=256).astype(np.float32)
    cues = find_cues(tokens)
    counts = np.log1p(np.concatenate((histogram @ _CLASS_MATRIX, cues.counts)))
    size = max(1, len(tokens.raw))
    asked = _asked(tokens, cues)
    rest = [
        *(np.expm1(counts[_SHARE_COLUMNS]) / size).tolist(),
        *_word_features(tokens),
        *(math.log1p(value) for value in asked),
        guess_log_tokens(asked[-1], dict(zip(CUE_GROUPS, cues.counts.tolist(), strict=True)), size),
        *layout_features(tokens.raw),
    ]
    return np.concatenate((counts, np.array(rest, dtype=np.float32)))


def _word_features(tokens: Tokens) -> list[float]:
    words = len(tokens.starts)
    sizes = tokens.ends - tokens.starts
    digits = sizes[tokens.folded[tokens.starts] == _DIGIT]
    numbers = len(digits)
    return [
        math.log1p(words),
        float(sizes.sum()) / max(1, words),
        math.log1p(np.count_nonzero(sizes > 7)),
        math.log1p(numbers),
        float(digits.sum()) / numbers if numbers else 0.0,
        math.log1p(digits.max()) if numbers else 0.0,
    ]


def _asked(tokens: Tokens, cues: Cues) -> list[float]:
    """What the text asks for by number, per unit and in tokens: "200 words", "three-paragraph", "10 ideas"."""
    asked = dict.fromkeys(UNITS, 0.0)
    for place, number in zip(cues.unit_places[:_UNITS_READ].tolist(), cues.units.tolist(), strict=False):
        unit = UNITS[number]
        asked[unit] = max(asked[unit], float(_amount_before(tokens, place)))
    return [*asked.values(), max(amount * _UNIT_TOKENS[unit] for unit, amount in asked.items())]


def _amount_before(tokens: Tokens, place: int) -> int:
    """The number up to three tokens before a unit: "10 great ideas", "500-word"; 0 where there is none."""
    for index in range(place - 1, max(-1, place - 4), -1):
        start = int(tokens.starts[index])
        if tokens.folded[start] == _DIGIT:
            digits = tokens.raw[start : int(tokens.ends[index])]
            return min(int(digits), 20_000) if digits.isdigit() and len(digits) <= 5 else 0
        named = _NUMBER_HASHES.get(int(tokens.words[index]))
        if named is not None:
            return named
    return 0
