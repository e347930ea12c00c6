"""Named features: what a vector's columns are called, and one hash that says so."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from predictor.features.grams import Grams

FloatArray = npt.NDArray[np.float32]

# Raised whenever a feature keeps its name and changes its meaning; it is part of every schema's hash.
EXTRACTOR_VERSION: Final = 2


class Schema(msgspec.Struct, frozen=True):
    """The ordered names of a vector's columns; `id` is 16 hexadecimal digits of their SHA-256."""

    names: tuple[str, ...]
    id: str

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """Hash the names together with the extractor's version."""
        text = "\n".join((f"extractor {EXTRACTOR_VERSION}", *names))
        return cls(names=tuple(names), id=hashlib.sha256(text.encode()).hexdigest()[:16])


class Features(msgspec.Struct, frozen=True):
    """One request's numbers: float32, one per name in `schema`, NaN where a feature is absent.

    `grams` are what the text head's outputs among them were made from.
    """

    schema: Schema
    values: FloatArray
    grams: Grams | None = None

    def to_bytes(self) -> bytes:
        """The vector as little-endian float32, as the traffic log stores it beside `schema.id`."""
        return self.values.astype("<f4").tobytes()

    def named(self) -> dict[str, float]:
        """The features that are present, by name."""
        pairs = zip(self.schema.names, self.values.tolist(), strict=True)
        return {name: value for name, value in pairs if not math.isnan(value)}

    def with_values(self, updates: Mapping[str, float]) -> "Features":
        """A copy in which some features have new values. Raises KeyError for a name outside the schema."""
        values = self.values.copy()
        for name, value in updates.items():
            values[column_of(self.schema, name)] = value
        return Features(schema=self.schema, values=values, grams=self.grams)


def column_of(schema: Schema, name: str) -> int:
    """The column of a feature; raises KeyError naming it where the schema has none."""
    try:
        return schema.names.index(name)
    except ValueError:
        raise KeyError(name) from None


def align(vector: FloatArray, names: Sequence[str], schema: Schema) -> FloatArray:
    """Bring a logged vector into another schema by name; what it lacks becomes NaN."""
    column = {name: index for index, name in enumerate(names)}
    padded = np.append(vector, np.float32(np.nan))
    picks = [column.get(name, len(names)) for name in schema.names]
    return np.asarray(padded[picks], dtype=np.float32)
