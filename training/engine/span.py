"""A run of engine iterations with the same sequences, timed in closed form."""

from bisect import bisect_left

from training.engine.types import SequenceState


class IterationSpan:
    """`count` iterations from `start_ps`: the first lasts `first_ps`, each later one `growth_ps` more.

    Times are whole picoseconds. `prefills` are the sequences whose prompt tokens are computed (then count is 1).
    """

    __slots__ = ("count", "first_ps", "growth_ps", "prefills", "start_ps")

    def __init__(
        self, start_ps: int, first_ps: int, growth_ps: int, count: int, prefills: list[SequenceState]
    ) -> None:
        self.start_ps = start_ps
        self.first_ps = first_ps
        self.growth_ps = growth_ps
        self.count = count
        self.prefills = prefills

    @property
    def end_ps(self) -> int:
        """When the last iteration ends."""
        return self._end_of(self.count)

    def stop_after(self, now_ps: int) -> None:
        """Let the iteration under way at `now_ps` be the last one."""
        self.count = 1 + bisect_left(range(1, self.count), now_ps, key=self._end_of)

    def _end_of(self, iterations: int) -> int:
        growth = self.growth_ps * (iterations * (iterations - 1) // 2)
        return self.start_ps + iterations * self.first_ps + growth
