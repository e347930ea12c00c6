"""Rows of a source as matrices: features that need no fitting, labels, censoring, splits."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from predictor.features.controls import output_limit
from predictor.features.extractor import RawFeatures, raw_features
from predictor.features.schema import FloatArray
from predictor.features.view import PromptView, read_view
from predictor.request import RequestBody, body_from_dict
from training.sources import DataError, Row, SourceRow

HASH_BITS: Final = 15
# No engine has a longer context; a larger label is a broken log line.
MAX_LABEL_TOKENS: Final = 10_000_000
_BODY_FIELDS: Final = frozenset(RequestBody.__struct_fields__)

BoolArray = npt.NDArray[np.bool_]
StrArray = npt.NDArray[np.str_]
DoubleArray = npt.NDArray[np.float64]


class Example(msgspec.Struct):
    """One usable row of a lengths file."""

    body: RequestBody
    view: PromptView
    raw: RawFeatures
    output_tokens: float
    censored: bool
    split: str
    part: str
    prompt_hash: str
    tenant: str
    identifier: str


class Skipped(msgspec.Struct):
    """Rows that could not be used, by reason."""

    reasons: Counter[str] = msgspec.field(default_factory=Counter)

    @property
    def total(self) -> int:
        """How many rows in all."""
        return sum(self.reasons.values())


class Dataset(msgspec.Struct):
    """Examples as arrays of one length; `label` is output tokens, `grams` the hashed n-gram counts."""

    examples: list[Example]
    fixed: FloatArray
    grams: sparse.csr_matrix
    label: DoubleArray
    censored: BoolArray
    split: StrArray
    part: StrArray
    model: StrArray
    prompt: StrArray
    skipped: Skipped

    def __len__(self) -> int:
        return len(self.examples)

    def select(self, mask: BoolArray) -> "Dataset":
        """The rows where `mask` is true."""
        rows = np.flatnonzero(mask)
        return Dataset(
            examples=[self.examples[row] for row in rows],
            fixed=self.fixed[rows],
            grams=self.grams[rows],
            label=self.label[rows],
            censored=self.censored[rows],
            split=self.split[rows],
            part=self.part[rows],
            model=self.model[rows],
            prompt=self.prompt[rows],
            skipped=self.skipped,
        )


def read_dataset(rows: Iterable[SourceRow], advance: Callable[[], None] = lambda: None) -> Dataset:
    """Read every row; `advance` is called once per row. Raises DataError for a row of the wrong type."""
    skipped = Skipped()
    seen: set[str] = set()
    examples: list[Example] = []
    for location, row in rows:
        advance()
        reason = _unusable(location, row, seen)
        if reason is None:
            examples.append(_example(location, row))
        else:
            skipped.reasons[reason] += 1
    if not examples:
        raise DataError(f"no usable row ({_describe(skipped)})")
    return _assemble(examples, skipped)


def _unusable(location: str, row: Row, seen: set[str]) -> str | None:
    """Why a row has to be left out; None where it can be used."""
    tokens = row.get("output_tokens")
    if tokens is None:
        return "no output_tokens"
    if isinstance(tokens, bool) or not isinstance(tokens, (int, float)):
        raise DataError(f"{location}: output_tokens is a {type(tokens).__name__}, a number is expected")
    if not math.isfinite(tokens) or tokens < 0 or tokens > MAX_LABEL_TOKENS:
        return "output_tokens negative, absurd or not a number"
    if row.get("hidden_reasoning"):
        return "hidden reasoning"
    if not row.get("messages") and not row.get("prompt"):
        return "no prompt"
    identifier = row.get("id")
    if identifier is None:
        return None
    if str(identifier) in seen:
        return "duplicate id"
    seen.add(str(identifier))
    return None


def _example(location: str, row: Row) -> Example:
    try:
        body = body_from_dict({name: value for name, value in row.items() if name in _BODY_FIELDS})
    except msgspec.ValidationError as error:
        raise DataError(f"{location}: {error}") from error
    view = read_view(body)
    limit = output_limit(body)
    tokens = float(row["output_tokens"])
    capped = limit is not None and tokens >= limit
    return Example(
        body=body,
        view=view,
        raw=raw_features(body, view, HASH_BITS),
        output_tokens=float(limit) if capped and limit is not None else tokens,
        censored=bool(row.get("truncated")) or capped,
        split=str(row.get("split", "")),
        part=str(row.get("part") or row.get("kind") or row.get("source") or ""),
        prompt_hash=hashlib.blake2b(f"{view.system}\x1f{view.focus}".encode("utf-8", "replace")).hexdigest()[:16],
        tenant=str(row.get("tenant", "default")),
        identifier=str(row.get("id", location)),
    )


def _assemble(examples: list[Example], skipped: Skipped) -> Dataset:
    def column(of: Callable[[Example], Any]) -> npt.NDArray[Any]:
        return np.array([of(example) for example in examples])

    return Dataset(
        examples=examples,
        fixed=np.stack([example.raw.fixed for example in examples]),
        grams=_stack_grams([example.raw for example in examples]),
        label=column(lambda e: e.output_tokens),
        censored=column(lambda e: e.censored),
        split=column(lambda e: e.split),
        part=column(lambda e: e.part),
        model=column(lambda e: e.body.model or ""),
        prompt=column(lambda e: e.prompt_hash),
        skipped=skipped,
    )


def _stack_grams(raws: list[RawFeatures]) -> sparse.csr_matrix:
    offsets = np.concatenate(([0], np.cumsum([len(raw.bins) for raw in raws])))
    bins = np.concatenate([raw.bins for raw in raws])
    counts = np.concatenate([raw.counts for raw in raws])
    return sparse.csr_matrix((counts, bins, offsets), shape=(len(raws), 1 << HASH_BITS))


def _describe(skipped: Skipped) -> str:
    if not skipped.reasons:
        return "the source is empty"
    return ", ".join(f"{count} skipped: {reason}" for reason, count in skipped.reasons.most_common())
