"""Rows of a source as arrays: features that need no fitting, labels, censoring, splits."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from predictor.features.extractor import FIXED_NAMES, RawFeatures
from predictor.features.schema import FloatArray
from predictor.history import HistoryKey
from predictor.request import RequestBody
from training.examples import HASH_BITS, Example, is_logged, logged_example, text_example, unusable
from training.sources import DataError, SourceRow

# Without a `split` field the last fifth of the rows is held out.
TRAIN_SHARE: Final = 0.8

# A log whose text mode was changed holds rows of both kinds; so many with text are enough to go by.
_MOSTLY: Final = 0.9

_ARRAYS: Final = (
    *("fixed", "label", "censored", "split", "part", "model", "prompt", "tenant", "arrival_us", "quantile"),
)

BoolArray = npt.NDArray[np.bool_]
StrArray = npt.NDArray[np.str_]
DoubleArray = npt.NDArray[np.float64]


class Dataset(msgspec.Struct, frozen=True):
    """Usable rows as arrays of one length n.

    `label` is output tokens, `grams` the occupied bins (n, bins). For rows from a traffic log `logged` holds
    their whole vectors (n, len(names)), aligned by `names`; `bodies` is empty, and so are `grams` unless the
    log's text mode kept them. `arrival_us` is 0 and `quantile`, as predicted at arrival, NaN where nobody logged it.
    """

    fixed: FloatArray
    grams: sparse.csr_matrix
    label: DoubleArray
    censored: BoolArray
    split: StrArray
    part: StrArray
    model: StrArray
    prompt: StrArray
    tenant: StrArray
    arrival_us: npt.NDArray[np.int64]
    quantile: DoubleArray
    bodies: list[RequestBody]
    keys: list[HistoryKey]
    logged: FloatArray | None
    names: tuple[str, ...]
    skipped: Counter[str]

    def __len__(self) -> int:
        return len(self.label)

    def select(self, mask: BoolArray) -> "Dataset":
        """The rows where `mask` is true."""
        rows = np.flatnonzero(mask)
        return msgspec.structs.replace(
            self,
            **{name: getattr(self, name)[rows] for name in _ARRAYS},
            grams=self.grams[rows],
            bodies=[self.bodies[row] for row in rows] if self.bodies else [],
            keys=[self.keys[row] for row in rows] if self.keys else [],
            logged=None if self.logged is None else self.logged[rows],
        )

    @classmethod
    def concatenate(cls, parts: "list[Dataset]") -> "Dataset":
        """Several data sets of rows with text, one below the other."""
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
        return cls(
            **joined,
            grams=sparse.vstack([part.grams for part in parts]).tocsr(),
            bodies=[body for part in parts for body in part.bodies],
            keys=[key for part in parts for key in part.keys],
            logged=None,
            names=(),
            skipped=sum((part.skipped for part in parts), Counter()),
        )

    @property
    def has_text(self) -> bool:
        """Whether n-grams of (nearly) all rows are known, so that a head can be fitted on them."""
        known = np.diff(self.grams.indptr) > 0
        return bool(known.mean() >= _MOSTLY)

    def training_rows(self) -> "Dataset":
        """Rows whose `split` is train or, where no row has a split, the first 80%. Raises DataError if none."""
        if (self.split != "").any():
            mask = self.split == "train"
        else:
            mask = np.arange(len(self)) < max(1, int(TRAIN_SHARE * len(self)))
        if not mask.any():
            raise DataError("no row has split train")
        return self.select(mask)

    def heldout_rows(self, *, trained_on_this: bool) -> "Dataset":
        """Rows whose `split` is heldout. Where no row has a split: the last 20% of a source that was trained on,
        all of any other. Raises DataError if none."""
        if (self.split != "").any():
            mask = self.split == "heldout"
        else:
            mask = np.arange(len(self)) >= (max(1, int(TRAIN_SHARE * len(self))) if trained_on_this else 0)
        if not mask.any():
            raise DataError("no row is held out")
        return self.select(mask)


def read_dataset(rows: Iterable[SourceRow], advance: Callable[[], None] = lambda: None) -> Dataset:
    """Read every row; `advance` is called once per row.

    Raises DataError for a row of the wrong type, and where no row can be used.
    """
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    examples: list[Example] = []
    for location, row in rows:
        advance()
        reason = unusable(location, row, seen)
        if reason is None:
            examples.append(logged_example(location, row) if is_logged(row) else text_example(location, row))
        else:
            skipped[reason] += 1
    if not examples:
        raise DataError(f"no usable row ({describe(skipped)})")
    if len({example.vector is None for example in examples}) > 1:
        raise DataError("some rows have text and others only features; train on one kind at a time")
    if any(example.split for example in examples):
        # Where some rows are split, the others are in neither part: `training_rows` and `heldout_rows` leave them.
        skipped["no split, where other rows have one"] += sum(not example.split for example in examples)
    return _assemble(examples, +skipped)


def describe(skipped: Counter[str]) -> str:
    """The skipped rows in words."""
    if not skipped:
        return "the source is empty"
    return ", ".join(f"{count} skipped: {reason}" for reason, count in skipped.most_common())


def _assemble(examples: list[Example], skipped: Counter[str]) -> Dataset:
    def column(of: Callable[[Example], Any]) -> npt.NDArray[Any]:
        return np.array([of(example) for example in examples])

    names, logged = _stack_vectors(examples)
    return Dataset(
        fixed=_fixed_part(examples, names, logged),
        grams=_stack_grams([example.raw for example in examples]),
        label=column(lambda e: e.output_tokens),
        censored=column(lambda e: e.censored),
        split=column(lambda e: e.split),
        part=column(lambda e: e.part),
        model=column(lambda e: e.model),
        prompt=column(lambda e: e.prompt),
        tenant=column(lambda e: e.tenant),
        arrival_us=column(lambda e: e.arrival_us),
        quantile=column(lambda e: e.quantile),
        bodies=[example.body for example in examples if example.body is not None],
        keys=[example.key for example in examples if example.key is not None],
        logged=logged,
        names=names,
        skipped=skipped,
    )


def _stack_vectors(examples: list[Example]) -> tuple[tuple[str, ...], FloatArray | None]:
    """Logged vectors under the union of their names, NaN where a row lacks one."""
    if examples[0].vector is None:
        return (), None
    names = tuple(dict.fromkeys(name for example in examples for name in example.names))
    place = {name: column for column, name in enumerate(names)}
    logged = np.full((len(examples), len(names)), np.nan, dtype=np.float32)
    for row, example in enumerate(examples):
        logged[row, [place[name] for name in example.names]] = example.vector
    return names, logged


def _fixed_part(examples: list[Example], names: tuple[str, ...], logged: FloatArray | None) -> FloatArray:
    if logged is None:
        return np.stack([example.raw.fixed for example in examples if example.raw is not None])
    return pick_columns(logged, names, FIXED_NAMES)


def pick_columns(matrix: FloatArray, names: tuple[str, ...], wanted: tuple[str, ...]) -> FloatArray:
    """The wanted columns by name, NaN where the matrix lacks one."""
    place = {name: column for column, name in enumerate(names)}
    picked = np.full((len(matrix), len(wanted)), np.nan, dtype=np.float32)
    for column, name in enumerate(wanted):
        if name in place:
            picked[:, column] = matrix[:, place[name]]
    return picked


def _stack_grams(raws: list[RawFeatures | None]) -> sparse.csr_matrix:
    """Occupied bins by row; a row of which no text is known is empty."""
    offsets = np.cumsum([0, *(0 if raw is None else len(raw.bins) for raw in raws)])
    bins = np.concatenate([np.zeros(0, dtype=np.uint32), *(raw.bins for raw in raws if raw is not None)])
    ones = np.ones(len(bins), dtype=np.float32)
    return sparse.csr_matrix((ones, bins, offsets), shape=(len(raws), 1 << HASH_BITS))
