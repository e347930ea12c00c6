"""How many of our requests may be at one engine at once: as few as keep it busy. Pure; time is passed in."""

from enum import Enum
from typing import Final

import msgspec

from proxy.scheduling.level import Level, Limits, Together
from proxy.scheduling.witness import FirstBytes, Gauges, QueueTimes

_SHARE_GAIN: Final = 1 / 64
# From this share of streams on, first bytes tell best; from the lower one on, better than queue times.
_MOSTLY_STREAMS: Final = 0.9
_SOME_STREAMS: Final = 0.25
_GAUGES_FRESH_US: Final = 15_000_000
# An engine that tells nothing is opened only after gauges have had this long to come.
_GRACE_US: Final = 5_000_000
# After the engine has refused for its queue's length, that length is the ceiling for so long.
_CEILING_US: Final = 60_000_000
UNLIMITED: Final = 1 << 62
"""A fixed window that never fills."""


class Witness(Enum):
    """Whose word moves the window at present."""

    FIRST_BYTES = "first bytes"
    GAUGES = "gauges"
    QUEUE_TIMES = "queue times"


class Polled(msgspec.Struct, frozen=True):
    """An engine's gauges as they were at a time: everybody's requests, and KV usage in [0, 1]."""

    at_us: int
    running: int
    waiting: int
    kv_usage: float


class _Flight(msgspec.Struct, eq=False):
    """One request at the engine. `place`: how many of ours were there when it was sent, itself included."""

    sent_us: int
    place: int
    streamed: bool
    begun: bool = False


class WindowController:
    """The window of one engine replica.

    It starts small and about doubles per time to first token while nothing shows a queue in the engine;
    once a queue shows, it is the number of ours that run together plus a small slack. Who tells that
    depends on the traffic: first bytes where most requests stream, else the engine's gauges, else first
    bytes of the few streams, else the queue times in the answers. Where nothing tells, it opens all the
    way: then the proxy is not worse than none.

    Call `sent`, `first_byte` and `ended` once per request, `gauges` after each poll, and hand `window` to
    the scheduler whenever it has changed. Events of unknown requests are ignored. Each call is O(1).
    """

    def __init__(self, limits: Limits | None = None, *, fixed: int | None = None) -> None:
        """`fixed`: this window whatever is seen, but for what the engine refuses."""
        self._limits = limits or Limits()
        self._fixed = fixed
        self._flights: dict[int, _Flight] = {}
        self._share: float | None = None
        self._forget()

    def _forget(self) -> None:
        self._level = Level(self._limits)
        self._together = Together(self._limits.turnaround_us)
        self._first_bytes = FirstBytes(self._level)
        self._gauges = Gauges(self._level)
        self._queue_times = QueueTimes(self._level)
        self._witness = Witness.FIRST_BYTES
        self._first_sent_us: int | None = None
        self._capped_us: int | None = None
        self._queue_times_told = False
        self.polled: Polled | None = None

    def __repr__(self) -> str:
        return f"<WindowController {self.window}: {self.reason}>"

    @property
    def window(self) -> int:
        """How many of our requests may be at the engine now."""
        if self._fixed is None:
            return self._level.window
        return self._fixed if self._capped_us is None else min(self._fixed, self._level.ceiling)

    @property
    def at_engine(self) -> int:
        """How many are."""
        return len(self._flights)

    @property
    def running(self) -> float:
        """How many of them the engine computes about now, by whoever tells best."""
        if self._witness is Witness.FIRST_BYTES:
            return min(self.at_engine, self._first_bytes.lately)
        if self._witness is Witness.GAUGES and self.polled is not None:
            return self.at_engine * self.polled.running / max(1, self.polled.running + self.polled.waiting)
        return self.at_engine if self._level.opening else min(self.at_engine, self._level.capacity)

    @property
    def opening(self) -> bool:
        """Whether nothing has shown yet that the engine is full."""
        return self._level.opening

    @property
    def ceiling(self) -> int:
        """What the engine's own refusals leave; far away where it has not refused lately."""
        return self._level.ceiling

    @property
    def stay_us(self) -> float:
        """About how long a request is at the engine; 0 before one has ended."""
        return self._level.stay_us

    @property
    def reason(self) -> str:
        """Why the window is what it is, in a few words for the status page."""
        level = self._level
        if self._capped_us is not None and self.window == level.ceiling:
            return f"at the engine's own limit, {level.ceiling}"
        if self._fixed is not None:
            return "no limit" if self._fixed >= UNLIMITED else "fixed"
        if level.opening:
            return f"opening, {level.capacity:.0f} seen running"
        return f"full at {level.capacity:.0f} by {self._witness.value}, {level.slack} spare"

    def sent(self, seq: int, now_us: int, *, streamed: bool) -> None:
        """A request goes to the engine."""
        if seq in self._flights:
            return
        place = len(self._flights) + 1
        self._flights[seq] = _Flight(now_us, place, streamed)
        if self._first_sent_us is None:
            self._first_sent_us = now_us
        share = float(streamed)
        self._share = share if self._share is None else self._share + (share - self._share) * _SHARE_GAIN
        self._gauges.sent(place)
        if streamed:
            self._first_bytes.sent(now_us)
        self._check(now_us)

    def first_byte(self, seq: int, now_us: int) -> None:
        """A stream's first event came: it is being decoded. Ignored for unary requests."""
        flight = self._flights.get(seq)
        if flight is None or flight.begun or not flight.streamed:
            return
        flight.begun = True
        self._first_bytes.began(max(1, now_us - flight.sent_us))
        self._choose(now_us)
        if self._witness is Witness.FIRST_BYTES:
            self._first_bytes.judge(self.at_engine, now_us)
            self._first_bytes.check(self.at_engine, now_us)
        else:
            self._first_bytes.stand_by(self.at_engine)

    def ended(self, seq: int, now_us: int, queue_us: int | None = None, *, answered: bool = True) -> None:
        """A request has left the engine; `answered`: with its whole answer, not by a cancel or an error.

        `queue_us` is the engine's own report of the wait for a slot (vLLM's `metrics.queue_time_ms`).
        """
        flight = self._flights.pop(seq, None)
        if flight is None:
            return
        if flight.streamed:
            self._first_bytes.ended(begun=flight.begun)
        if answered:
            self._together.ended(now_us)
            self._level.stayed(max(1, now_us - flight.sent_us), self._together.count)
            self._queue_times.ended()
            self._hear(flight, queue_us, now_us)
            self._lift_ceiling(now_us)
        self._check(now_us)

    def refused(self, seq: int, now_us: int) -> None:
        """The engine refused a request because its own queue is full: stay below that for a while."""
        if seq in self._flights:
            self._level.cap(self.at_engine - 1)
            self._capped_us = now_us
            self.ended(seq, now_us, answered=False)

    def gauges(self, running: int, waiting: int, kv_usage: float, now_us: int) -> None:
        """The engine's counts of running and waiting sequences and its KV usage in [0, 1] were polled."""
        self._gauges.polled(waiting, self.at_engine, now_us)
        self.polled = Polled(now_us, running, waiting, kv_usage)
        self._choose(now_us)
        if self._witness is Witness.GAUGES:
            self._gauges.judge(running, waiting, kv_usage, self.at_engine)

    def reset(self) -> None:
        """The engine was restarted: what was learned of it is void. Requests under way still end as usual."""
        self._forget()
        for flight in self._flights.values():
            flight.begun = False
            if flight.streamed:
                self._first_bytes.sent(flight.sent_us)

    def _choose(self, now_us: int) -> None:
        share = self._share or 0.0
        polled_us = self._gauges.polled_us
        if share >= _MOSTLY_STREAMS:
            self._witness = Witness.FIRST_BYTES
        elif polled_us is not None and now_us - polled_us < _GAUGES_FRESH_US:
            self._witness = Witness.GAUGES
        else:
            self._witness = Witness.FIRST_BYTES if share >= _SOME_STREAMS else Witness.QUEUE_TIMES

    def _check(self, now_us: int) -> None:
        if self._witness is Witness.FIRST_BYTES:
            self._first_bytes.check(self.at_engine, now_us)

    def _hear(self, flight: _Flight, queue_us: int | None, now_us: int) -> None:
        """Listen to the queue time: alone where nothing else tells, else only to open up without delay."""
        self._choose(now_us)
        alone = self._witness is Witness.QUEUE_TIMES
        if queue_us is None:
            if not (alone and self._nothing_tells(now_us)):
                return
        else:
            self._queue_times_told = True
        opens = self._witness is Witness.GAUGES and self._level.opening and not self._gauges.waiting
        if alone or opens:
            self._queue_times.judge(queue_us or 0, flight.place, flight.sent_us, now_us, may_settle=alone)

    def _nothing_tells(self, now_us: int) -> bool:
        if self._queue_times_told or self._gauges.polled_us is not None or self._first_sent_us is None:
            return False
        return now_us - self._first_sent_us > _GRACE_US

    def _lift_ceiling(self, now_us: int) -> None:
        if self._capped_us is not None and now_us - self._capped_us > _CEILING_US:
            self._capped_us = None
            self._level.uncap()
