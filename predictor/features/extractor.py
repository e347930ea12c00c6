"""The one feature extractor, of serving and of training: a request body in, a named vector out."""

from typing import Final, NamedTuple

import numpy as np

from predictor.features.controls import CONTROL_NAMES, control_features
from predictor.features.grams import Grams
from predictor.features.lexical import LEXICAL_NAMES, lexical_features
from predictor.features.ngrams import IndexArray, count_bins, encode, focus_grams, side_grams, tokenize
from predictor.features.schema import Features, FloatArray, Schema
from predictor.features.view import PromptView, read_view
from predictor.history import HISTORY_NAMES
from predictor.request import Api, RequestBody
from predictor.text_head import TextHead

# Slots for what the engine's own model says of the answer's length (self-prediction); NaN when nobody asked it.
SELF_NAMES: Final = (
    "self.stated", "self.expected", "self.spread", "self.entropy", "self.end_logprob", "self.top_logprob",
    "self.first_entropy", "self.first_end_logprob", "self.score_0", "self.score_1", "self.score_2", "self.score_3",
)  # fmt: skip
FIXED_NAMES: Final = (*CONTROL_NAMES, "text.distinct_share", *LEXICAL_NAMES, *HISTORY_NAMES, *SELF_NAMES)

_DISTINCT_AT: Final = len(CONTROL_NAMES)
_LEXICAL_AT: Final = _DISTINCT_AT + 1
_HISTORY_AT: Final = _LEXICAL_AT + len(LEXICAL_NAMES)
_SELF_AT: Final = _HISTORY_AT + len(HISTORY_NAMES)
_HEAD_AT: Final = _SELF_AT + len(SELF_NAMES)


class RawFeatures(NamedTuple):
    """All that does not depend on a fitted head: the fixed part of the vector and the occupied bins."""

    fixed: FloatArray
    bins: IndexArray
    counts: FloatArray


def schema_of(head: TextHead) -> Schema:
    """The full schema of an extractor that uses this head."""
    return Schema.of((*FIXED_NAMES, *head.names))


class FeatureExtractor:
    """Computes `Features` with one fitted text head."""

    def __init__(self, head: TextHead) -> None:
        self.head = head
        self.schema = schema_of(head)

    def extract(
        self, body: RequestBody, view: PromptView, history: FloatArray, api: Api | None = None
    ) -> Features:
        """Features of one request; `view` comes from `read_view(body)`, `history` from `History.features`."""
        raw = raw_features(body, view, self.head.bits, api)
        raw.fixed[_HISTORY_AT:_SELF_AT] = history
        outputs = self.head.transform(raw.bins, raw.counts, raw.fixed)
        grams = Grams(self.head.bits, raw.bins, raw.counts)
        return Features(self.schema, np.concatenate((raw.fixed, outputs)), grams)


def raw_features(body: RequestBody, view: PromptView, bits: int, api: Api | None = None) -> RawFeatures:
    """The part that training computes once per row, before any head is fitted."""
    fixed = np.full(_HEAD_AT, np.nan, dtype=np.float32)
    fixed[:_DISTINCT_AT] = control_features(body, view, api)
    focus, system = encode(view.focus), encode(view.system)
    # All three pieces are cut in one pass; a line break keeps their tokens apart.
    tokens = tokenize(b"\n".join((focus, system, encode(view.context))))
    focus_tokens = tokens.before(len(focus))
    grams = focus_grams(focus_tokens)
    focus_words, system_words = (
        len(focus_tokens.words),
        int(tokens.starts.searchsorted(len(focus) + len(system) + 1)),
    )
    grams.append(side_grams(tokens.words[focus_words:system_words], "system"))
    grams.append(side_grams(tokens.words[system_words:], "context"))
    bins, counts = count_bins(grams, bits)
    if focus_words:
        fixed[_DISTINCT_AT] = len(bins) / sum(map(len, grams))
        fixed[_LEXICAL_AT:_HISTORY_AT] = lexical_features(focus_tokens)
    return RawFeatures(fixed, bins, counts)


def set_history(matrix: FloatArray, history: FloatArray) -> None:
    """Write history columns (rows, len(HISTORY_NAMES)) into a matrix of full or fixed vectors, in place."""
    matrix[:, _HISTORY_AT:_SELF_AT] = history


__all__ = [
    "FIXED_NAMES", "SELF_NAMES", "FeatureExtractor", "RawFeatures", "raw_features", "read_view", "schema_of",
    "set_history",
]  # fmt: skip
