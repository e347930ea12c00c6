"""One row of a lengths file or of a traffic log, checked and read."""

import hashlib
import math
from typing import Final

import msgspec
import numpy as np

from predictor.features.controls import output_limit
from predictor.features.extractor import RawFeatures, raw_features
from predictor.features.grams import unpack_grams
from predictor.features.schema import FloatArray
from predictor.features.view import PromptView, read_view
from predictor.history import HISTORY_NAMES, HistoryKey, history_key
from predictor.request import RequestBody, body_from_dict
from predictor.self_query import SELF_NAMES
from training.sources import DataError, Row

HASH_BITS: Final = 15
# No engine has a longer context; a larger label is a broken log line.
MAX_LABEL_TOKENS: Final = 10_000_000
# Of a logarithm: no request asks for more answers.
_MOST_COUNTED: Final = 10.0
# An array of names gives each of them the room of the longest.
_LONGEST_NAME: Final = 200
_BODY_FIELDS: Final = frozenset(RequestBody.__struct_encode_fields__)
# What was answered before and what a model said of its own answer differ between equal prompts.
_OTHERS: Final = frozenset({*HISTORY_NAMES, *SELF_NAMES})
_SPLITS: Final = frozenset({"", "train", "heldout"})


class Example(msgspec.Struct):
    """One usable row. Either `body`, `raw` and `key` are there, or `vector` and `names`, and `raw` where the log
    kept counts of n-grams or text, when it arrived, and its place as predicted then."""

    output_tokens: float
    censored: bool
    split: str
    part: str
    model: str
    prompt: str
    tenant: str
    body: RequestBody | None = None
    raw: RawFeatures | None = None
    key: HistoryKey | None = None
    vector: FloatArray | None = None
    names: tuple[str, ...] = ()
    arrival_us: int = 0
    quantile: float = math.nan


def is_logged(row: Row) -> bool:
    """Whether a row has the features of a traffic log; a lengths file may call anything `features`."""
    return isinstance(row.get("features"), bytes) and "feature_names" in row


def unusable(location: str, row: Row, seen: set[str]) -> str | None:
    """Why a row has to be left out, None where it can be used; raises DataError where its label is no number.

    `seen` collects the ids met so far.
    """
    tokens = row.get("output_tokens")
    if tokens is None:
        return "no output_tokens"
    if isinstance(tokens, bool) or not isinstance(tokens, (int, float)):
        raise DataError(f"{location}: output_tokens is a {type(tokens).__name__}, a number is expected")
    if not 0 <= tokens <= MAX_LABEL_TOKENS:  # false of NaN too, and of an integer that no float can hold
        return "output_tokens negative, absurd or not a number"
    if row.get("hidden_reasoning"):
        return "hidden reasoning"
    if not is_logged(row) and not any(row.get(name) for name in ("messages", "prompt", "input")):
        return "no prompt"
    return _duplicate(row.get("id"), seen)


def _duplicate(identifier: object, seen: set[str]) -> str | None:
    if identifier is None:
        return None
    if str(identifier) in seen:
        return "duplicate id"
    seen.add(str(identifier))
    return None


def text_example(location: str, row: Row) -> Example:
    """A row of a lengths file. Raises DataError where a field has the wrong type."""
    try:
        body = body_from_dict({name: value for name, value in row.items() if name in _BODY_FIELDS})
    except (ValueError, TypeError, RecursionError) as error:
        # Besides a wrong type: a lone surrogate, which no engine would be sent, or what JSON cannot hold.
        raise DataError(f"{location}: {error}") from error
    view = read_view(body)
    tokens, censored = _label(location, row, output_limit(body), body.answer_count * view.prompts)
    tenant = _name(row.get("tenant") or "default")
    return Example(
        output_tokens=tokens,
        censored=censored,
        split=_split(location, row),
        part=_name(row.get("part") or row.get("kind") or row.get("source")),
        model=_name(body.model),
        prompt=_prompt_of(view),
        tenant=tenant,
        body=body,
        raw=raw_features(body, view, HASH_BITS),
        key=history_key(tenant, body.model, view),
    )


def logged_example(location: str, row: Row) -> Example:
    """A row of a traffic log, with features instead of text. DataError where they do not fit their names."""
    names = tuple(row["feature_names"])
    if len(row["features"]) != 4 * len(names):
        raise DataError(f"{location}: {len(row['features'])} bytes of features for {len(names)} names")
    vector = np.frombuffer(row["features"], dtype="<f4").astype(np.float32)
    vector[np.isinf(vector)] = np.nan
    tokens, censored = _label(location, row, row.get("max_tokens"), _answers_logged(names, vector))
    return Example(
        output_tokens=tokens,
        censored=censored,
        split=_split(location, row),
        part=_name(row.get("class_name")),
        model=_name(row.get("model")),
        prompt=_logged_prompt(row, names, vector),
        tenant=_name(row.get("tenant") or "default"),
        raw=_logged_raw(location, row, vector),
        vector=vector,
        names=names,
        arrival_us=int(row.get("arrival_us") or 0),
        quantile=math.nan if row.get("quantile") is None else float(row["quantile"]),
    )


def _name(value: object) -> str:
    return str(value or "")[:_LONGEST_NAME]


def _logged_prompt(row: Row, names: tuple[str, ...], vector: FloatArray) -> str:
    """What one prompt is told from another by, so that equal ones stay together: its text, its n-grams, or its features,
    but for those that are no part of it."""
    if isinstance(body := row.get("body"), RequestBody):
        return _prompt_of(read_view(body))
    if row.get("grams"):
        return _hashed(row["grams"])
    own = vector[[name not in _OTHERS for name in names]]
    return _hashed(own.tobytes() if np.isfinite(own).any() else str(row["id"]).encode())


def _prompt_of(view: PromptView) -> str:
    text = f"{view.system}\x1f{view.context}\x1f{view.focus}\x1f{view.focus_chars}"
    return _hashed(text.encode("utf-8", "replace"))


def _hashed(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _logged_raw(location: str, row: Row, vector: FloatArray) -> RawFeatures | None:
    """What text mode `hashed` or `full` has kept, for a new head; None where it is nothing (of this size)."""
    if isinstance(body := row.get("body"), RequestBody):
        return raw_features(body, read_view(body), HASH_BITS)
    if not row.get("grams"):
        return None
    try:
        grams = unpack_grams(row["grams"])
    except ValueError as error:
        raise DataError(f"{location}: {error}") from error
    return RawFeatures(vector, grams.bins) if grams.bits == HASH_BITS else None


def _answers_logged(names: tuple[str, ...], vector: FloatArray) -> int:
    """How many answers a logged request asked for: its n times its prompts."""
    counts = [vector[names.index(name)] for name in ("control.n", "control.prompts") if name in names]
    told = np.array([1.0, *(np.expm1(min(count, _MOST_COUNTED)) for count in counts if not np.isnan(count))])
    return int(np.maximum(1, np.round(told)).prod())


def _label(location: str, row: Row, limit: int | None, answers: int) -> tuple[float, bool]:
    """Output tokens of all answers, and whether they are only a lower bound; one cut at its limit counts as the
    limit, which is each answer's own."""
    tokens, truncated = float(row["output_tokens"]), row.get("truncated") or False
    if truncated not in (False, True):
        raise DataError(f"{location}: truncated is {truncated!r}; true or false is expected")
    if limit is not None and 0 < limit * answers <= tokens:
        return float(limit * answers), True
    return tokens, bool(truncated)


def _split(location: str, row: Row) -> str:
    split = row.get("split") or ""
    if not isinstance(split, str) or split not in _SPLITS:
        raise DataError(f"{location}: split is {split!r}; train or heldout is expected")
    return str(split)
