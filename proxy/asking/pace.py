"""How long an answer to a query is waited for, by how fast the engine has answered so far. Pure."""

from typing import Final

SHORTEST_S: Final = 0.25
LONGEST_S: Final = 5.0
# Until an engine was seen to answer: most do sooner, and who does not is not given up before it was.
_FIRST_S: Final = 1.0
# Queries wait behind what has just begun in the engine, so their times scatter.
_SPARE: Final = 3.0
_GAIN: Final = 1 / 8
# Of a query that was given up it is known only that it takes longer: the circuit opens after five of these.
_GIVEN_UP: Final = 2.0


class Pace:
    """The deadline of one engine's queries: `fixed_s` where the operator has set one."""

    def __init__(self, fixed_s: float | None = None) -> None:
        self._fixed_s = fixed_s
        self._usual_s: float | None = None

    @property
    def deadline_s(self) -> float:
        """Three times what queries usually take, between a quarter of a second and five."""
        if self._fixed_s is not None:
            return self._fixed_s
        if self._usual_s is None:
            return _FIRST_S
        return min(LONGEST_S, max(SHORTEST_S, _SPARE * self._usual_s))

    def answered(self, took_s: float) -> None:
        """A query was answered in time."""
        usual_s = took_s if self._usual_s is None else self._usual_s + (took_s - self._usual_s) * _GAIN
        self._usual_s = usual_s

    def given_up(self) -> None:
        """A query was not answered in time."""
        self._usual_s = min(LONGEST_S, self.deadline_s * _GIVEN_UP) / _SPARE
