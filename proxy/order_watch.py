"""Does the engine honour our priorities? Learned passively, from the order in which answers begin."""

from collections import deque
from enum import Enum
from typing import Final

import msgspec

_RECENT: Final = 64
_VOTES: Final = 60
_ENOUGH_VOTES: Final = 30
_HONOURED_SHARE: Final = 0.8
_IGNORED_SHARE: Final = 0.2
# A request that waits in the engine has its first byte later than this many times the fastest one.
_QUEUED_FACTOR: Final = 3.0
_QUEUED_AT_LEAST_US: Final = 20_000
# The fastest time to first byte is forgotten slowly, so that a faster past does not rule for ever.
_FLOOR_DECAY: Final = 1.001


class Verdict(Enum):
    """What is known of the engine's order."""

    UNPROVEN = "unproven"
    HONOURED = "honoured"
    IGNORED = "ignored"


class Sighting(msgspec.Struct, frozen=True):
    """One streamed request at one engine: when it was sent, when its answer began (microseconds), its rank.

    `rank`: what the engine was told to order it by, lower first.
    """

    sent_us: int
    first_byte_us: int
    rank: int


class OrderWatch:
    """Compares pairs of requests that waited in one engine together.

    Only a pair in which the later one has the better rank tells anything: with priorities it begins first, in
    order of arrival it begins second. 30 such pairs decide, the last 60 count, and it never stops watching.
    """

    def __init__(self) -> None:
        self._recent: deque[Sighting] = deque(maxlen=_RECENT)
        self._votes: deque[bool] = deque(maxlen=_VOTES)
        self._floor_us: float | None = None

    @property
    def pairs(self) -> int:
        """How many telling pairs count at present."""
        return len(self._votes)

    @property
    def verdict(self) -> Verdict:
        """The present state of knowledge."""
        if len(self._votes) < _ENOUGH_VOTES:
            return Verdict.UNPROVEN
        share = sum(self._votes) / len(self._votes)
        if share >= _HONOURED_SHARE:
            return Verdict.HONOURED
        return Verdict.IGNORED if share <= _IGNORED_SHARE else Verdict.UNPROVEN

    def reset(self) -> None:
        """The engine came back: it may have been started otherwise."""
        self._recent.clear()
        self._votes.clear()
        self._floor_us = None

    def observe(self, seen: Sighting) -> None:
        """Take in one streamed answer; costs next to nothing where it did not wait in the engine."""
        waited_us = seen.first_byte_us - seen.sent_us
        floor_us = waited_us if self._floor_us is None else min(waited_us, self._floor_us * _FLOOR_DECAY)
        self._floor_us = floor_us
        queued_us = _QUEUED_FACTOR * floor_us + _QUEUED_AT_LEAST_US
        if waited_us < queued_us:
            return
        for other in self._recent:
            self._compare(seen, other, queued_us)
        self._recent.append(seen)

    def _compare(self, one: Sighting, other: Sighting, queued_us: float) -> None:
        earlier, later = sorted((one, other), key=lambda sighting: sighting.sent_us)
        begun_first_us = min(earlier.first_byte_us, later.first_byte_us)
        together_us = begun_first_us - later.sent_us
        if later.rank < earlier.rank and together_us >= queued_us:
            self._votes.append(later.first_byte_us < earlier.first_byte_us)
