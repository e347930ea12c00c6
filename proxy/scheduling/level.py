"""The window's level: where it stands between opening up and just above the capacity that was found."""

from collections import deque
from math import sqrt
from typing import Final

import msgspec

_GAIN: Final = 1 / 32
_ENDS_GAIN: Final = 1 / 128
# A computed slack must leave this band around the one in use before it replaces it: no flicker.
_SLACK_BAND: Final = (-0.25, 1.25)


class Limits(msgspec.Struct, frozen=True):
    """What the window may be, and how much more than its capacity an engine is sent.

    `turnaround_us` is the time in which an answer's end becomes the next request at the engine: what ends
    within it must be waiting there. `spare` requests come on top; more of it gives the engine's own order
    (and the proof that it honours priorities) more to work with, less leaves more to the proxy's.
    """

    initial: int = 8
    minimum: int = 1
    maximum: int = 1024
    spare: int = 1
    turnaround_us: int = 20_000


class Together:
    """How many other answers end within a turn-around before one does: the mean and two standard deviations.

    Answers end at the engine's steps, and those that began together and are as long end together: by their rate
    alone one would think that they hardly ever do.
    """

    def __init__(self, turnaround_us: int) -> None:
        self._turnaround_us = turnaround_us
        self._ends_us: deque[int] = deque()
        self._mean = 0.0
        self._variance = 0.0

    @property
    def count(self) -> float:
        """Enough in most cases."""
        return self._mean + 2 * sqrt(self._variance)

    def ended(self, now_us: int) -> None:
        """An answer has ended."""
        while self._ends_us and now_us - self._ends_us[0] > self._turnaround_us:
            self._ends_us.popleft()
        off = len(self._ends_us) - self._mean
        self._ends_us.append(now_us)
        self._mean += off * _ENDS_GAIN
        self._variance += (off * off - self._variance) * _ENDS_GAIN


class Level:
    """The window, either opening (no queue seen in the engine yet) or settled on a capacity plus a slack."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.stay_us = 0.0
        self._step = 0.0
        self.ceiling = limits.maximum
        self.window = self._bounded(limits.initial)
        self.capacity = 0.0
        self.slack = limits.spare
        self.opening = True

    def stayed(self, stay_us: int, together: float = 0.0) -> None:
        """A request was at the engine for so long, and about so many others end with one (`Together`)."""
        self.stay_us += (stay_us - self.stay_us) * _GAIN if self.stay_us else stay_us
        self._renew_slack(together)

    def open_to(self, window: float) -> None:
        """Nothing says that the engine is full: let at least so many in."""
        self.opening = True
        self.window = max(self.window, self._bounded(window))

    def widen(self) -> None:
        """All that the window lets in were seen to run: double while opening, later by doubling steps."""
        step = self.window if self.opening else min(self.window, max(self._step, self.slack))
        self._step = 2 * step
        self.window = self._bounded(self.window + step)
        self.capacity = max(self.capacity, self.window - self.slack)

    def hold(self) -> None:
        """The engine has a queue: no more for now."""
        self.opening = False
        self._step = 0.0

    def settle(self, capacity: float) -> None:
        """The engine runs so many of ours and not more."""
        self.hold()
        self.capacity = max(0.0, capacity)
        self.window = self._bounded(self.capacity + self.slack)

    def cap(self, ceiling: int) -> None:
        """Never more than this, until `ceiling` is set again."""
        self.ceiling = max(self._limits.minimum, ceiling)
        self.window = self._bounded(self.window)

    def uncap(self) -> None:
        """Forget the ceiling."""
        self.ceiling = self._limits.maximum

    def _renew_slack(self, together: float) -> None:
        # Ends within one turn-around: their mean by Little's law, and two standard deviations of a Poisson count.
        ends = self.capacity * self._limits.turnaround_us / self.stay_us
        exact = self._limits.spare + max(ends + 2 * sqrt(ends), min(together, self.capacity))
        low, high = _SLACK_BAND
        if not low <= exact - self.slack < high:
            self.slack = int(exact)

    def _bounded(self, window: float) -> int:
        return max(self._limits.minimum, min(self.ceiling, int(window)))
