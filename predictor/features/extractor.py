"""The one feature extractor, of serving and of training: a request body in, a named vector out."""

import math
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from predictor.features.controls import CONTROL_NAMES, control_features
from predictor.features.grams import Grams
from predictor.features.lexical import COUNT_NAMES, LEXICAL_NAMES, lexical_features
from predictor.features.schema import Features, FloatArray, Schema
from predictor.features.tokens import (
    UintArray,
    context_grams,
    encode,
    focus_grams,
    occupied_bins,
    system_grams,
    tokenize,
)
from predictor.features.view import PromptView, read_view
from predictor.history import HISTORY_NAMES
from predictor.request import Api, RequestBody
from predictor.self_query import SELF_NAMES
from predictor.text_head import HeadEvaluator, TextHead

# SELF_NAMES: what the engine's own model says (self-prediction); NaN when nobody asked it.
FIXED_NAMES: Final = (*CONTROL_NAMES, "text.distinct_share", *LEXICAL_NAMES, *HISTORY_NAMES, *SELF_NAMES)

_LEXICAL_AT: Final = len(CONTROL_NAMES) + 1
_COUNTS: Final = slice(_LEXICAL_AT, _LEXICAL_AT + len(COUNT_NAMES))
_HISTORY_AT: Final = _LEXICAL_AT + len(LEXICAL_NAMES)
_HISTORY: Final = slice(_HISTORY_AT, _HISTORY_AT + len(HISTORY_NAMES))
_NO_TEXT: Final = [math.nan] * (1 + len(LEXICAL_NAMES))
# What is read of a request comes first; history and what the model says of itself are not known yet.
_BLANK: Final = np.full(len(FIXED_NAMES), np.nan, dtype=np.float32)
# numpy takes twice as long to make an array of a list.
_READ: Final = Struct(f"{_HISTORY_AT}f")


class RawFeatures(NamedTuple):
    """All that does not depend on a fitted head: the fixed part of the vector and the occupied bins."""

    fixed: FloatArray
    bins: UintArray


def schema_of(head: TextHead) -> Schema:
    """The full schema of an extractor that uses this head."""
    return Schema.of((*FIXED_NAMES, *head.names))


class FeatureExtractor:
    """Computes `Features` with one fitted text head."""

    def __init__(self, head: TextHead) -> None:
        self.schema = schema_of(head)
        self._bits = head.bits
        self._head = HeadEvaluator(head)

    def extract(
        self, body: RequestBody, view: PromptView, history: FloatArray, api: Api | None = None
    ) -> Features:
        """Features of one request; `view` comes from `read_view(body)`, `history` from `History.features`."""
        raw = raw_features(body, view, self._bits, api)
        raw.fixed[_HISTORY] = history
        outputs = self._head.transform(raw.bins, raw.fixed)
        values = np.concatenate((raw.fixed, outputs))
        return Features(self.schema, values, Grams(self._bits, raw.bins))


def raw_features(body: RequestBody, view: PromptView, bits: int, api: Api | None = None) -> RawFeatures:
    """The part that training computes once per row, before any head is fitted."""
    tokens = tokenize(encode(view.focus))
    grams = [*focus_grams(tokens), system_grams(view.system), context_grams(view.context)]
    bins = occupied_bins(grams, bits)
    values = control_features(body, view, api)
    if len(tokens.words):
        values.append(len(bins) / sum(map(len, grams)))
        values += lexical_features(tokens)
    else:
        values += _NO_TEXT
    fixed = _BLANK.copy()
    _READ.pack_into(fixed.data, 0, *values)
    np.log1p(fixed[_COUNTS], out=fixed[_COUNTS])
    return RawFeatures(fixed, bins)


def set_history(matrix: FloatArray, history: FloatArray) -> None:
    """Write history columns (rows, len(HISTORY_NAMES)) into a matrix of full or fixed vectors, in place."""
    matrix[:, _HISTORY] = history


__all__ = [
    "FIXED_NAMES", "SELF_NAMES", "FeatureExtractor", "RawFeatures", "raw_features", "read_view", "schema_of",
    "set_history",
]  # fmt: skip
