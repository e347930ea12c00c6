"""A transparent guess of the answer's length from what the prompt asks for in so many words.

It orders requests of a kind that training never saw; where training did see them, it is one feature of many.
"""

import math
from collections.abc import Sequence
from typing import Final

from predictor.features.cues import CUE_GROUPS

# The first rule that holds decides: a cue group, how often it must occur, and the tokens to expect.
_RULES: Final = (
    ("yes_or_no", 1, 4.0),
    ("one_word", 1, 4.0),
    ("only", 1, 14.0),
    ("one_sentence", 1, 35.0),
    ("classify", 2, 15.0),
    ("creative", 1, 350.0),
    ("long", 2, 700.0),
    ("in_detail", 1, 500.0),
    ("long", 1, 450.0),
    ("code", 2, 400.0),
    ("list", 1, 250.0),
    ("compare", 1, 350.0),
    ("stepwise", 1, 250.0),
    ("how_to", 1, 350.0),
    ("explain", 1, 250.0),
    ("code", 1, 300.0),
    ("write", 1, 300.0),
    ("extract", 1, 60.0),
    ("fact", 1, 60.0),
    ("question", 1, 70.0),
)
_OTHERWISE: Final = 150.0
_BYTES_PER_TOKEN: Final = 4.0
_PLACE: Final = {group: place for place, group in enumerate(CUE_GROUPS)}
_PLACED_RULES: Final = tuple((_PLACE[group], least, tokens) for group, least, tokens in _RULES)
_TRANSLATE, _REWRITE, _SUMMARIZE, _SHORT = (
    _PLACE[group] for group in ("translate", "rewrite", "summarize", "short")
)


def guess_log_tokens(asked_tokens: float, cues: Sequence[float], size_bytes: int) -> float:
    """log(1 + tokens); `asked_tokens` is what the prompt names by number, 0 where it names nothing; `cues` has one
    count per CUE_GROUPS."""
    if asked_tokens > 0:
        return math.log1p(asked_tokens)
    if cues[_TRANSLATE] or cues[_REWRITE]:
        return math.log1p(max(20.0, size_bytes / _BYTES_PER_TOKEN))
    if cues[_SUMMARIZE]:
        return math.log1p(min(200.0, max(40.0, size_bytes / _BYTES_PER_TOKEN / 3)))
    for place, least, tokens in _PLACED_RULES:
        if cues[place] >= least:
            return math.log1p(tokens * (0.6 if cues[_SHORT] and tokens > 20 else 1.0))
    return math.log1p(_OTHERWISE)
