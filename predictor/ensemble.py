"""Several rankers that vote: their raw scores, standardised, averaged."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from predictor.features.schema import FloatArray, Schema, column_of


class Model(Protocol):
    """What scores a row: a booster, or a kernel regression."""

    def score(self, row: FloatArray) -> float:
        """The raw score of one row."""
        ...

    def columns(self) -> frozenset[int]:
        """The columns of a row that it looks at."""
        ...


class Member(msgspec.Struct, frozen=True):
    """One voice: a model, named by its file, or a feature that is a prediction by itself, by its name.

    Its raw score s enters the mean as weight * (s - center) / scale. `needs` names a feature without which the
    model has nothing to say.
    """

    objective: str
    weight: float
    center: float
    scale: float
    file: str | None = None
    feature: str | None = None
    needs: str | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.feature is None):
            raise ValueError("a member of the ensemble needs either a file or a feature")
        if not (self.weight > 0 and self.scale > 0):
            raise ValueError("a member of the ensemble needs a positive weight and scale")


class Ensemble:
    """Scores rows of one schema, from one thread."""

    def __init__(self, members: Sequence[Member], models: Mapping[str, Model], schema: Schema) -> None:
        """Raises KeyError where a member's file or feature is missing."""
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members = tuple(members)
        self._models = [
            (member, models[member.file], None if member.needs is None else column_of(schema, member.needs))
            for member in members
            if member.file is not None
        ]
        self._columns = [
            (member, column_of(schema, member.feature)) for member in members if member.feature is not None
        ]

    def columns(self) -> frozenset[int]:
        """The columns of a row that any member looks at."""
        read = [model.columns() for _, model, _ in self._models]
        return frozenset(column for _, column in self._columns).union(*read)

    def score(self, row: FloatArray) -> float:
        """The weighted mean over the members that have something to say of this row; 0 where none has."""
        total = weights = 0.0
        for member, model, needed in self._models:
            if needed is None or not math.isnan(row[needed]):
                total += member.weight * (model.score(row) - member.center) / member.scale
                weights += member.weight
        for member, column in self._columns:
            value = float(row[column])
            if not math.isnan(value):  # a NaN feature is a silent member
                total += member.weight * (value - member.center) / member.scale
                weights += member.weight
        return total / weights if weights else 0.0
