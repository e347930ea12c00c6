"""A measured figure beside its goal, and how figures are shown."""

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table


class Figure(msgspec.Struct, frozen=True):
    """One figure; a `goal` is the most that it may be, None: for information only."""

    name: str
    value: float
    goal: float | None
    unit: str

    @property
    def kept(self) -> bool:
        """Whether it is no worse than its goal."""
        return self.goal is None or self.value <= self.goal


def as_json(figures: Sequence[Figure]) -> str:
    """One JSON list."""
    shown = [msgspec.structs.asdict(one) | {"kept": one.kept} for one in figures]
    return msgspec.json.format(msgspec.json.encode(shown)).decode()


def show(figures: Sequence[Figure]) -> None:
    """A table, with what is missed in red."""
    table = Table("figure", "measured", "at most", "")
    for one in figures:
        goal = "" if one.goal is None else f"{one.goal:,.4g}"
        style = None if one.kept else "red"
        table.add_row(one.name, f"{one.value:,.4g}", goal, one.unit, style=style)
    Console().print(table)
