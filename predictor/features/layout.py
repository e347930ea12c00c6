"""How a text is laid out: lines, list marks, lettered options, where and how it asks."""

import math
from itertools import compress
from operator import itemgetter
from typing import Final

LAYOUT_NAMES: Final = (
    "layout.lines", "layout.empty_lines", "layout.mean_line_bytes", "layout.first_line_bytes",
    "layout.last_line_bytes", "layout.max_line_bytes", "layout.second_line_bytes", "layout.line_contrast",
    "layout.indented_lines", "layout.list_lines",
    "layout.options", "layout.option_bytes", "layout.option_contrast", "layout.option_numbers",
    "layout.question_bytes",
    "layout.fences", "layout.asks_at", "layout.asking_bytes",
    "layout.ends_question", "layout.ends_colon", "layout.ends_stop",
)  # fmt: skip
_MAX_LINES: Final = 50
_OPTION_MARKS: Final = frozenset(
    bytes((letter, mark)) for letter in b"abcdefghijABCDEFGHIJ" for mark in b".)"
)
_INDENTED, _LISTED, _NUMBER = b"i", b"l", b"n"
_LINE_STARTS: Final = bytes(
    _INDENTED[0] if byte in b" \t" else _LISTED[0] if byte in b"-*0123456789" else 0 for byte in range(256)
)
_OPTION_STARTS: Final = bytes(_NUMBER[0] if byte in b"0123456789-$." else 0 for byte in range(256))
_first_byte: Final = itemgetter(0)
_mark: Final = itemgetter(slice(0, 2))


def layout_features(raw: bytes) -> list[float]:
    """One value per LAYOUT_NAMES; sizes and counts on a log scale. Beyond 50 lines the rest counts as one."""
    lines = raw.split(b"\n", _MAX_LINES)
    filled = list(filter(None, lines))
    if not filled:
        return [0.0] * len(LAYOUT_NAMES)
    stripped = raw.rstrip()
    return [
        *_lines(filled, len(lines) - len(filled)),
        *_options(raw, filled),
        math.log1p(raw.count(b"```")),
        *_asking(raw),
        float(stripped.endswith(b"?")),
        float(stripped.endswith(b":")),
        float(stripped.endswith(b".")),
    ]


def _lines(filled: list[bytes], empty: int) -> list[float]:
    """From `lines` to `list_lines` of LAYOUT_NAMES; the contrast is between the longest line and the median."""
    sizes = list(map(len, filled))
    ordered = sorted(sizes)
    longest = math.log1p(ordered[-1])
    starts = bytes(map(_first_byte, filled)).translate(_LINE_STARTS)
    return [
        math.log1p(len(sizes)),
        math.log1p(empty),
        math.log1p(sum(sizes) / len(sizes)),
        math.log1p(sizes[0]),
        math.log1p(sizes[-1]),
        longest,
        math.log1p(ordered[-2]) if len(ordered) > 1 else 0.0,
        longest - math.log1p(ordered[len(ordered) // 2]),
        math.log1p(starts.count(_INDENTED)),
        math.log1p(starts.count(_LISTED)),
    ]


def _options(raw: bytes, lines: list[bytes]) -> list[float]:
    """Lines such as "A. text" or "b) text": how many, their size and its contrast, the share that are numbers,
    and the bytes before the first."""
    options = list(compress(lines, map(_OPTION_MARKS.__contains__, map(_mark, lines))))
    if len(options) < 2:
        return [0.0, 0.0, 0.0, 0.0, math.log1p(len(raw))]
    sizes = list(map(len, options))
    starts = b"".join([option[3:4] for option in options]).translate(_OPTION_STARTS)
    return [
        float(len(options)),
        math.log1p(sum(sizes) / len(sizes)),
        math.log1p(max(sizes)) - math.log1p(min(sizes)),
        starts.count(_NUMBER) / len(options),
        math.log1p(raw.find(options[0])),
    ]


def _asking(raw: bytes) -> list[float]:
    """Where the last question mark stands, as a share of the text, and how long its sentence is."""
    place = raw.rfind(b"?")
    if place < 0:
        return [0.0, 0.0]
    start = max(raw.rfind(b". ", 0, place), raw.rfind(b"\n", 0, place), 0)
    return [place / len(raw), math.log1p(place - start)]
