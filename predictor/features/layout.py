"""How a text is laid out: lines, list marks, lettered options, how it ends."""

import math
from typing import Final

LAYOUT_NAMES: Final = (
    "layout.lines", "layout.empty_lines", "layout.mean_line_bytes", "layout.first_line_bytes",
    "layout.last_line_bytes", "layout.max_line_bytes", "layout.indented_lines", "layout.list_lines",
    "layout.options", "layout.option_bytes", "layout.option_bytes_spread", "layout.option_numbers",
    "layout.question_bytes", "layout.fences", "layout.ends_question", "layout.ends_colon", "layout.ends_stop",
    "layout.longest_quote",
)  # fmt: skip
_MAX_LINES: Final = 150
_LIST_MARKS: Final = frozenset(b"-*0123456789")
_LETTERS: Final = frozenset(b"abcdefghijABCDEFGHIJ")
_DIGITS: Final = frozenset(b"0123456789-$.")


def layout_features(raw: bytes) -> list[float]:
    """One value per LAYOUT_NAMES; sizes and counts on a log scale. Beyond 150 lines the rest counts as one."""
    lines = raw.split(b"\n", _MAX_LINES)
    filled = [line for line in lines if line]
    if not filled:
        return [0.0] * len(LAYOUT_NAMES)
    sizes = list(map(len, filled))
    stripped = raw.rstrip()
    return [
        math.log1p(len(filled)),
        math.log1p(len(lines) - len(filled)),
        math.log1p(sum(sizes) / len(sizes)),
        math.log1p(sizes[0]),
        math.log1p(sizes[-1]),
        math.log1p(max(sizes)),
        math.log1p(sum(line[0] in b" \t" for line in filled)),
        math.log1p(sum(line[0] in _LIST_MARKS for line in filled)),
        *_options(raw, filled),
        float(raw.count(b"```")),
        float(stripped.endswith(b"?")),
        float(stripped.endswith(b":")),
        float(stripped.endswith(b".")),
        math.log1p(max(map(len, raw.split(b'"', 20)[1::2]), default=0)),
    ]


def _options(raw: bytes, lines: list[bytes]) -> list[float]:
    """Lines such as "A. text" or "b) text": how many, their size and its spread, the share that are numbers,
    and the bytes before the first."""
    options = [line[2:] for line in lines if line[1:2] in (b".", b")") and line[0] in _LETTERS]
    if len(options) < 2:
        return [0.0, 0.0, 0.0, 0.0, math.log1p(len(raw))]
    sizes = [math.log1p(len(option)) for option in options]
    numeric = sum(option.strip()[:1] != b"" and option.strip()[0] in _DIGITS for option in options)
    return [
        float(len(options)),
        sum(sizes) / len(sizes),
        max(sizes) - min(sizes),
        numeric / len(options),
        math.log1p(raw.find(options[0])),
    ]
