"""Numbers read off the focus text itself: its make-up, its layout, what it asks for and how much of it."""

from typing import Final

import numpy as np
import numpy.typing as npt

from predictor.features.cues import CUE_GROUPS, NUMBER_WORDS, count_groups, cue_numbers, group_members
from predictor.features.ngrams import ByteArray, Tokens, hash_word
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
_LAYOUT: Final = (
    "words", "mean_word_bytes", "distinct_share", "long_words", "numbers", "number_digits", "lines", "empty_lines",
    "mean_line_bytes", "last_line_bytes", "first_line_bytes", "max_line_bytes", "indented_lines", "list_lines",
    "options", "option_bytes", "option_bytes_spread", "option_digit_share", "question_bytes", "ends_question",
    "ends_colon", "ends_full_stop", "fences",
)  # fmt: skip
_UNITS: Final = ("word", "sentence", "paragraph", "item", "token")
# About how many tokens one unit of an answer takes: turns "three paragraphs" and "200 words" into one number.
_UNIT_TOKENS: Final = (1.35, 24.0, 110.0, 28.0, 1.0)

LEXICAL_NAMES: Final = (
    *(f"count.{name}" for name in _BYTE_CLASSES),
    *(f"share.{name}" for name in ("upper", "digit", "space", "bracket", "operator", "quote")),
    *(f"cue.{group}" for group in CUE_GROUPS),
    *(f"layout.{name}" for name in _LAYOUT),
    *(f"asked.{unit}s" for unit in _UNITS),
    "asked.length_tokens",
)

_NEWLINE: Final = 10
_LINE_MARKS: Final = np.isin(np.arange(256), list(b"-*0123456789")).astype(np.bool_)
_CLASS_MATRIX: Final = np.array(
    [[byte in members for members in _BYTE_CLASSES.values()] for byte in range(256)], dtype=np.float32
)
_CLASS_COLUMN: Final = {name: column for column, name in enumerate(_BYTE_CLASSES)}
_SHARE_COLUMNS: Final = [_CLASS_COLUMN[n] for n in ("upper", "digit", "space", "bracket", "operator", "quote")]
_NUMBER_HASHES: Final = {hash_word(word): value for word, value in NUMBER_WORDS.items()}
_DIGIT: Final = 48


def lexical_features(tokens: Tokens) -> FloatArray:
    """One value per LEXICAL_NAMES. Sizes and counts are on a log scale, shares in [0, 1]."""
    histogram = np.bincount(tokens.raw, minlength=256).astype(np.float32)
    counts = histogram @ _CLASS_MATRIX
    cues = cue_numbers(tokens.hashes)
    return np.concatenate(
        (
            np.log1p(counts),
            counts[_SHARE_COLUMNS] / max(1, len(tokens.raw)),
            np.log1p(count_groups(cues)),
            np.array(_layout(tokens), dtype=np.float32),
            _asked(tokens, cues),
        )
    ).astype(np.float32)


def _layout(tokens: Tokens) -> list[float]:
    raw, starts, ends = tokens.raw, tokens.starts, tokens.ends
    words = len(starts)
    if words == 0:
        return [0.0] * len(_LAYOUT)
    sizes = ends - starts
    is_number = tokens.folded[starts] == _DIGIT
    numbers = int(np.count_nonzero(is_number))
    last = int(raw[starts[-1]])
    return [
        _log(words),
        float(sizes.mean()),
        len(set(tokens.hashes.tolist())) / words,
        _log(int(np.count_nonzero(sizes > 7))),
        _log(numbers),
        float(sizes[is_number].mean()) if numbers else 0.0,
        *_lines(raw),
        float(last == ord("?")),
        float(last == ord(":")),
        float(last == ord(".")),
        float(int(np.count_nonzero(raw == ord("`"))) >= 3),
    ]


def _lines(raw: ByteArray) -> list[float]:
    """From `lines` to `question_bytes` of _LAYOUT: line sizes, marks at line starts, lettered options."""
    breaks = np.flatnonzero(raw == _NEWLINE)
    begins = np.concatenate(([0], breaks + 1))
    sizes = np.diff(np.concatenate((begins, [len(raw) + 1]))) - 1
    filled = np.flatnonzero(sizes > 0)
    begins, filled_sizes = begins[filled], sizes[filled]
    if len(filled) == 0:
        return [0.0] * 13
    first = raw[begins]
    second = raw[np.minimum(begins + 1, len(raw) - 1)]
    return [
        _log(len(filled)),
        _log(len(sizes) - len(filled)),
        _log(float(filled_sizes.mean())),
        _log(int(filled_sizes[-1])),
        _log(int(filled_sizes[0])),
        _log(int(filled_sizes.max())),
        _log(int(np.count_nonzero(first == 32)) + int(np.count_nonzero(first == 9))),
        _log(int(np.count_nonzero(_LINE_MARKS[first]))),
        *_options(raw, begins, filled_sizes, first, second),
    ]


def _options(
    raw: ByteArray,
    begins: npt.NDArray[np.intp],
    sizes: npt.NDArray[np.intp],
    first: ByteArray,
    second: ByteArray,
) -> list[float]:
    """Lines such as "A. text" or "b) text": how many, how long, how numeric, and what precedes the first."""
    lettered = (((first | 32) - 97) < 10) & ((second == ord(".")) | (second == ord(")")))
    chosen = np.flatnonzero(lettered)
    if len(chosen) < 2:
        return [0.0, 0.0, 0.0, 0.0, _log(len(raw))]
    lengths = np.log1p(sizes[chosen])
    start = int(begins[chosen[0]])
    tail = raw[start:]
    digits = int(np.count_nonzero((tail - _DIGIT) < 10))
    return [
        float(len(chosen)),
        float(lengths.mean()),
        float(lengths.max() - lengths.min()),
        digits / max(1, len(tail)),
        _log(start),
    ]


def _asked(tokens: Tokens, cues: npt.NDArray[np.int16]) -> FloatArray:
    """What the text asks for by number ("200 words", "three-paragraph", "10 ideas"), on a log scale."""
    asked = np.zeros(len(_UNITS) + 1, dtype=np.float32)
    for column, unit in enumerate(_UNITS):
        amounts = [_amount_before(tokens, int(place)) for place in group_members(cues, f"unit_{unit}")[:6]]
        asked[column] = max(amounts, default=0)
    expected = max((float(n) * cost for n, cost in zip(asked, _UNIT_TOKENS, strict=False)), default=0.0)
    asked[-1] = expected
    return np.log1p(asked)


def _amount_before(tokens: Tokens, place: int) -> int:
    """The number up to three tokens before a unit: "10 great ideas", "500-word"; 0 where there is none."""
    for index in range(place - 1, max(-1, place - 4), -1):
        start = int(tokens.starts[index])
        if tokens.folded[start] == _DIGIT:
            digits = tokens.raw[start : int(tokens.ends[index])].tobytes()
            return min(int(digits), 20_000) if digits.isdigit() and len(digits) <= 5 else 0
        named = _NUMBER_HASHES.get(int(tokens.hashes[index]))
        if named is not None:
            return named
    return 0


def _log(value: float) -> float:
    return float(np.log1p(value))
