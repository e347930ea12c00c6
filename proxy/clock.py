"""The proxy's clock: the wall is read once, then only monotonic time passes, so keys never jump."""

import time
from collections.abc import Callable


class Clock:
    """Microseconds since the Unix epoch that never run backwards.

    The wall clock is read at construction; afterwards a step of the wall (NTP, an operator) cannot reorder
    requests. `skew_us` says how far the wall has wandered since, for the metrics.
    """

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._offset_ns = wall_ns() - monotonic_ns()

    def now_us(self) -> int:
        """Microseconds since the Unix epoch."""
        return (self._monotonic_ns() + self._offset_ns) // 1000

    def skew_us(self) -> int:
        """How far the wall clock is ahead of this clock now, in microseconds."""
        return self._wall_ns() // 1000 - self.now_us()
