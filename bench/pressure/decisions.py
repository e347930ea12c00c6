"""The pure scheduler with thousands waiting: bytes per request, and microseconds per event."""

import random
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from bench.pressure.figure import Figure
from bench.summary import percentile
from predictor.prediction import Prediction
from proxy.scheduling.backlog import QueueLimits
from proxy.scheduling.classes import default_classes
from proxy.scheduling.policy import MICROSECONDS, Quantile
from proxy.scheduling.queued import QueuedRequest
from proxy.scheduling.scheduler import Scheduler

_TENANTS: Final = 20
_EVENTS: Final = 2_000
_STATE_BYTES: Final = 2_048
_DECISION_US: Final = 20.0
_TTL_US: Final = 3_600 * MICROSECONDS
_PLACES: Final = 8


def state(waiting: int) -> Figure:
    """Python objects of the scheduler and its requests, bodies aside, per waiting request."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        crowd = _Crowd(waiting)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert crowd.scheduler.waiting == waiting
    return Figure(f"scheduler state, {waiting} waiting", taken / waiting, _STATE_BYTES, "B a request")


def decisions(waiting: int) -> Iterator[Figure]:
    """Mean time of each event while so many wait, and its 99th percentile for information."""
    events: dict[str, tuple[Callable[[_Crowd], Callable[[], object]], int]] = {
        "submit": (_Crowd.submit, 2 * waiting),
        "finish, and start the next": (_Crowd.finish, 2 * waiting),
        "cancel": (_Crowd.cancel, 2 * waiting),
        "new prediction": (_Crowd.rekey, 2 * waiting),
        "shed the worst": (_Crowd.submit, waiting),
        "deadlines, none near": (_Crowd.expire, 2 * waiting),
    }
    for name, (prepare, most) in events.items():
        crowd = _Crowd(waiting, most)
        times_us = []
        for _ in range(min(_EVENTS, waiting // 2)):
            event = prepare(crowd)
            begin_ns = time.thread_time_ns()
            event()
            times_us.append((time.thread_time_ns() - begin_ns) / 1000)
        label = f"{name}, {waiting} waiting"
        yield Figure(f"{label}, mean", statistics.mean(times_us), _DECISION_US, "us")
        yield Figure(f"{label}, p99", percentile(times_us, 99), None, "us")


class _Crowd:
    """Twenty tenants in three classes, each request with an hour's TTL; all places are taken.

    Its events are prepared by one call, so that only the scheduler's part is timed.
    """

    def __init__(self, waiting: int, most: int | None = None) -> None:
        limits = QueueLimits(max_waiting=most or waiting, shed_worst=True)
        self.scheduler = Scheduler(default_classes(Quantile(120 * MICROSECONDS)), limits=limits)
        self._rng = random.Random(1)
        self._now_us = 1_700_000_000 * MICROSECONDS
        self._seq = 0
        self._waiting: list[QueuedRequest] = []
        for _ in range(waiting):
            self.submit()()
        self.scheduler.add_replica("engine", 0, self._now_us)
        self._running = self.scheduler.set_window("engine", _PLACES, self._now_us).started
        for _ in self._running:
            self.submit()()

    def submit(self) -> Callable[[], object]:
        """Somebody new comes."""
        self._now_us += 1_000
        self._seq += 1
        quantile = self._rng.random()
        item = QueuedRequest(
            self._seq,
            f"{self._rng.getrandbits(128):032x}",
            self._now_us,
            Prediction(quantile, 1000 * quantile, 300 * quantile, 2000 * quantile),
            ("interactive", "standard", "batch")[self._seq % 3],
            f"tenant-{self._seq % _TENANTS}",
            prompt_tokens=100,
            body_bytes=500,
            deadline_us=self._now_us + _TTL_US,
        )
        self._waiting.append(item)
        return partial(self.scheduler.submit, item, self._now_us)

    def finish(self) -> Callable[[], object]:
        """An answer ends, and the next one goes."""
        item = self._running.pop(0)

        def event() -> None:
            self._running.extend(self.scheduler.finish(item, self._now_us, 500.0).started)

        return event

    def cancel(self) -> Callable[[], object]:
        """Somebody who waits gives up."""
        return partial(self.scheduler.cancel, self._any(), self._now_us)

    def rekey(self) -> Callable[[], object]:
        """Somebody's answer is thought to be another length."""
        quantile = self._rng.random()
        changed = Prediction(quantile, 1000 * quantile, 300 * quantile, 2000 * quantile)
        return partial(self.scheduler.rekey, self._any(), changed, self._now_us)

    def expire(self) -> Callable[[], object]:
        """A quarter of a second has passed; the engines serve all within a minute."""
        return partial(self.scheduler.expire, self._now_us, self.scheduler.waiting_tokens / 60)

    def _any(self) -> QueuedRequest:
        place = self._rng.randrange(len(self._waiting))
        self._waiting[place], self._waiting[-1] = self._waiting[-1], self._waiting[place]
        item = self._waiting.pop()
        return item if item.replica is None else self._any()
