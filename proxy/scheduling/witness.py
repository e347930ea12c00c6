"""What tells whether an engine is full: first bytes, its gauges, its queue times. Each moves the level."""

from collections import deque
from typing import Final

from proxy.scheduling.level import Level

# First bytes. No new high for this many times the fastest TTFT (and a turn-around): the engine is full.
_STALLED: Final = 4.0
_STALLED_AT_LEAST_US: Final = 20_000
# The fastest TTFT is forgotten slowly, so that a faster past does not rule for ever.
_FLOOR_DECAY: Final = 1.001
_FEWEST_BEGINS: Final = 8
_REOPEN: Final = 1.25
# Gauges. So many polls in a row must show a queue: one may fall into a burst of prefills.
_STANDING_POLLS: Final = 4
_MOST: Final = 0.9
_KV_FULL: Final = 0.95
_REMEMBER_US: Final = 4_000_000
# Queue times. Up to an iteration of waiting is no queue.
_ITERATION_US: Final = 20_000
_TESTED: Final = 0.75


class FirstBytes:
    """The streams' witness, exact and quick: who has had its first byte runs, who has not may be waiting.

    While opening, twice as many may be at the engine as have been seen to run together; when that number
    stops rising though others are pending, the engine is full. Then the capacity is the most that ran
    together lately. It falls only while some are pending all the time, and when it rises by a quarter the
    window opens again. Unary requests are thought to run in the same share as streams.
    """

    def __init__(self, level: Level) -> None:
        self._level = level
        self._streams = 0
        self._begun = 0
        self._floor_us: float | None = None
        self._high = 0.0
        self._high_before = 0.0
        self._begins = 0
        self._rise_us = 0
        self._settled_at = 0.0

    def sent(self, now_us: int) -> None:
        """A stream was sent."""
        if self._streams == self._begun:
            self._rise_us = now_us
        self._streams += 1

    def began(self, ttft_us: int) -> None:
        """A stream had its first byte."""
        self._begun += 1
        self._begins += 1
        self._floor_us = ttft_us if self._floor_us is None else min(ttft_us, self._floor_us * _FLOOR_DECAY)

    def ended(self, *, begun: bool) -> None:
        """A stream has left the engine."""
        self._streams -= 1
        self._begun -= begun

    def stand_by(self, at_engine: int) -> None:
        """Another witness is listened to: be ready to take over from where it stands."""
        self._high = self._running(at_engine)
        self._high_before = self._settled_at = self._level.capacity
        self._begins = 0

    def judge(self, at_engine: int, now_us: int) -> None:
        """A stream has just begun: move the level."""
        running = self._running(at_engine)
        if running > self._high:
            self._high = running
            self._rise_us = now_us
        if self._level.opening:
            self._open()
        else:
            self._follow(running)

    def check(self, at_engine: int, now_us: int) -> None:
        """Time has passed: while opening, no more streams beginning means that the engine is full."""
        if not self._level.opening or self._floor_us is None or self._begun == self._streams:
            return
        if now_us - self._rise_us > _STALLED * self._floor_us + _STALLED_AT_LEAST_US:
            self._level.settle(self._high)
            self._settled_at = self._high_before = self._high
            self._high = self._running(at_engine)
            self._begins = 0

    def _open(self) -> None:
        self._level.capacity = max(self._level.capacity, self._high)
        self._level.open_to(2 * self._high)

    def _follow(self, running: float) -> None:
        if self._begun == self._streams:
            self._high_before = max(self._high_before, self._level.capacity)
            self._high = running
            self._begins = 0
        elif self._begins >= max(_FEWEST_BEGINS, running):
            self._high_before = self._high
            self._high = running
            self._begins = 0
        self._level.settle(max(self._high, self._high_before))
        if self._level.capacity >= _REOPEN * self._settled_at + 1:
            self._high = running
            self._open()

    @property
    def lately(self) -> float:
        """The most that ran together lately; between two begins some are always on their way."""
        return max(self._high, self._high_before)

    def _running(self, at_engine: int) -> int:
        return at_engine * self._begun // self._streams if self._streams else 0


class Gauges:
    """The engine's own counts, polled and seconds old: right about its capacity whenever they show a queue.

    A queue that stands over several polls settles the level on what ran meanwhile, less the share of
    others: what the gauges show beyond the most that we had there lately. A slack that partly runs raises
    it. No queue at all, with the window in use and running, widens it; what is sent after that must show
    up among the running before the next step.
    """

    def __init__(self, level: Level) -> None:
        self._level = level
        self._standing: deque[float] = deque(maxlen=_STANDING_POLLS)
        self._most = 0
        self._most_before = 0
        self._most_since_us = 0
        self.polled_us: int | None = None
        self.waiting = 0

    def sent(self, at_engine: int) -> None:
        """A request was sent; with it so many of ours are there."""
        self._most = max(self._most, at_engine)

    def polled(self, waiting: int, at_engine: int, now_us: int) -> None:
        """Fresh gauges came."""
        self.polled_us = now_us
        self.waiting = waiting
        if now_us - self._most_since_us > _REMEMBER_US:
            self._most_before = self._most
            self._most = at_engine
            self._most_since_us = now_us

    def judge(self, running: int, waiting: int, kv_usage: float, at_engine: int) -> None:
        """Move the level by the gauges just polled."""
        level = self._level
        ours = running * min(1.0, max(self._most, self._most_before) / max(1, running + waiting))
        if waiting > level.slack:
            self._standing.append(ours)
            if len(self._standing) == _STANDING_POLLS:
                level.settle(min(max(self._standing), level.window))
            return
        self._standing.clear()
        if waiting:
            if not level.opening and ours > level.capacity:
                level.settle(ours)
        elif min(at_engine, running / _MOST) >= _MOST * level.window and kv_usage < _KV_FULL:
            level.widen()


class QueueTimes:
    """The queue times that answers report, by Little's law: for engines without gauges, and to open quicker.

    Requests count that were sent since the window last changed, while most of it was in use. They waited
    for `rate x mean wait` others; the rest of those who were there ran.
    """

    def __init__(self, level: Level) -> None:
        self._level = level
        self._restart(0)

    def ended(self) -> None:
        """A request was answered."""
        self._ends += 1

    def judge(self, queue_us: int, at_engine: int, sent_us: int, now_us: int, *, may_settle: bool) -> None:
        """An answer told how long it waited; it was sent as one of `at_engine`."""
        level = self._level
        if level.window != self._window:
            self._restart(now_us)
        if sent_us < self._since_us or at_engine < _TESTED * level.window:
            return
        self._answers += 1
        self._at_engine += at_engine
        self._wait_us += max(0, queue_us - _ITERATION_US)
        waiting = self._wait_us / self._answers * self._ends / max(1, now_us - self._since_us)
        if self._answers >= self._enough(waiting):
            self._conclude(waiting, now_us, may_settle=may_settle)

    def _enough(self, waiting: float) -> int:
        if waiting > 4 * self._level.slack:
            return 8
        return max(4, self._window // 4) if self._level.opening else max(16, self._window)

    def _conclude(self, waiting: float, now_us: int, *, may_settle: bool) -> None:
        level = self._level
        running = self._at_engine / self._answers - waiting
        if waiting < level.slack / 4:
            level.widen()
        elif may_settle and waiting > 2 * level.slack:
            level.settle(min(running, level.window - level.slack))
        elif may_settle:
            level.hold()
        self._restart(now_us)

    def _restart(self, now_us: int) -> None:
        self._since_us = now_us
        self._window = self._level.window
        self._ends = 0
        self._answers = 0
        self._at_engine = 0
        self._wait_us = 0
