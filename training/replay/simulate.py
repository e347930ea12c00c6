"""Virtual time: the proxy's scheduler in front of engine models, until every request has ended."""

import math
from collections.abc import Sequence as SequenceOf
from typing import Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from predictor.prediction import Prediction
from proxy.scheduling.backlog import QueueLimits
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.policy import MICROSECONDS, Policy
from proxy.scheduling.queued import Changes, QueuedRequest
from proxy.scheduling.scheduler import Scheduler
from training.engine import EngineModel, Event, EventKind, SchedulingPolicy, Sequence
from training.profiles import EngineProfile

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Nothing is refused in a replay: every request counts, however long it waits.
_UNLIMITED: Final = QueueLimits(max_waiting=1 << 60, max_bytes=1 << 60)


class Queue(Protocol):
    """What the simulation asks of a queue; `Scheduler` is one."""

    def submit(self, item: QueuedRequest, now_us: int) -> Changes:
        """Admit a request."""
        ...

    def finish(self, item: QueuedRequest, now_us: int, actual_tokens: float | None = None) -> Changes:
        """A request has ended at its engine."""
        ...


class Pool(msgspec.Struct, frozen=True):
    """The engines: so many alike, at most `window` requests at each. `by_key`: keys go along as priorities."""

    profile: EngineProfile
    replicas: int = 1
    window: int | None = None
    by_key: bool = False

    @property
    def windows(self) -> list[int]:
        """Requests that may be at each engine; by default as many as it has slots."""
        return [self.window or self.profile.max_num_seqs] * self.replicas


class Jobs(msgspec.Struct, frozen=True):
    """What to serve: sizes in tokens, and when each arrives.

    `at_us` holds all arrivals of an open loop. In a closed one `clients` send one request at once and each
    next one when an answer has ended; `at_us` is empty then.
    """

    prompt_tokens: list[int]
    output_tokens: list[int]
    at_us: list[int]
    clients: int = 0

    def __len__(self) -> int:
        return len(self.prompt_tokens)


class Run(msgspec.Struct, frozen=True):
    """What came of each request, by its number; `order` is the order of dispatch. Seconds of virtual time."""

    arrival_s: DoubleArray
    started_s: DoubleArray
    first_token_s: DoubleArray
    end_s: DoubleArray
    order: IntArray
    preemptions: int
    recomputed_tokens: int

    @property
    def ttft_s(self) -> DoubleArray:
        """Time to first token."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> DoubleArray:
        """Time to the last token."""
        return self.end_s - self.arrival_s

    @property
    def wait_s(self) -> DoubleArray:
        """Time until an engine began its prefill: in the proxy's queue and in the engine's own."""
        return self.started_s - self.arrival_s


def scheduler(policy: Policy, pool: Pool, lane_share: float = 0.0) -> Scheduler:
    """The proxy's scheduler with one class, one tenant and the pool's engines, named by their number."""
    made = Scheduler([ServiceClass("standard", policy)], lane_share=lane_share, limits=_UNLIMITED)
    for number, window in enumerate(pool.windows):
        made.add_replica(str(number), window, 0)
    return made


def simulate(pool: Pool, jobs: Jobs, predictions: SequenceOf[Prediction], queue: Queue) -> Run:
    """Serve all jobs through `queue` and the pool's engines. ValueError for a job that can never fit."""
    return _Simulation(pool, jobs, predictions, queue).run()


class _Simulation:
    """One run. At each instant engines go first, then arrivals: the next iteration sees both.

    Beyond some 4,500 s of virtual time a float of seconds no longer names every picosecond of the engine
    model, and a request that is sent as another ends may begin one iteration later than inside the engine.
    """

    def __init__(self, pool: Pool, jobs: Jobs, predictions: SequenceOf[Prediction], queue: Queue) -> None:
        policy = SchedulingPolicy.PRIORITY if pool.by_key else SchedulingPolicy.FCFS
        self._engines = [EngineModel(pool.profile, policy) for _ in range(pool.replicas)]
        self._by_key = pool.by_key
        self._jobs = jobs
        self._predictions = predictions
        self._queue = queue
        self._closed = jobs.clients > 0
        self._arrivals_us = [0] * min(jobs.clients, len(jobs)) if self._closed else jobs.at_us
        self._arrived = 0
        self._items: dict[int, QueuedRequest] = {}
        self._order: list[int] = []
        self._started_s = np.full(len(jobs), np.nan)
        self._first_token_s = np.full(len(jobs), np.nan)
        self._end_s = np.full(len(jobs), np.nan)

    def run(self) -> Run:
        while (now_s := self._next_s()) is not None:
            for event in self._events(now_s):
                self._happened(event, now_s)
            while self._arrived < len(self._arrivals_us) and self._arrival_s() <= now_s:
                self._arrive(now_s)
        return self._result()

    def _next_s(self) -> float | None:
        times = [at_s for engine in self._engines if (at_s := engine.next_event_s()) is not None]
        if self._arrived < len(self._arrivals_us):
            times.append(self._arrival_s())
        return min(times, default=None)

    def _arrival_s(self) -> float:
        return self._arrivals_us[self._arrived] / MICROSECONDS

    def _events(self, now_s: float) -> list[Event]:
        found: list[Event] = []
        for engine in self._engines:
            found += engine.advance(now_s)
        return found

    def _arrive(self, now_s: float) -> None:
        number = self._arrived
        self._arrived += 1
        item = QueuedRequest(
            seq=number,
            request_id="",
            arrival_us=self._arrivals_us[number],
            prediction=self._predictions[number],
            prompt_tokens=self._jobs.prompt_tokens[number],
        )
        self._items[number] = item
        self._send(self._queue.submit(item, item.arrival_us), now_s)

    def _happened(self, event: Event, now_s: float) -> None:
        number = event.sequence_id
        if event.kind is EventKind.FIRST_TOKEN:
            self._first_token_s[number] = event.at_s
            self._started_s[number] += event.queue_s
        elif event.kind is EventKind.FINISHED:
            self._end_s[number] = event.at_s
            tokens = self._jobs.prompt_tokens[number] + self._jobs.output_tokens[number]
            if self._closed and len(self._arrivals_us) < len(self._jobs):
                self._arrivals_us.append(math.ceil(now_s * MICROSECONDS))
            changes = self._queue.finish(self._items.pop(number), round(now_s * MICROSECONDS), tokens)
            self._send(changes, now_s)

    def _send(self, changes: Changes, now_s: float) -> None:
        for item in changes.started:
            number = item.seq
            self._order.append(number)
            self._started_s[number] = now_s
            sequence = Sequence(
                id=number,
                prompt_tokens=item.prompt_tokens,
                output_tokens=self._jobs.output_tokens[number],
                priority=item.key_us if self._by_key else 0,
            )
            self._engines[int(item.replica or 0)].submit(sequence, now_s)

    def _result(self) -> Run:
        counters = [engine.counters for engine in self._engines]
        return Run(
            arrival_s=np.array(self._arrivals_us) / MICROSECONDS,
            started_s=self._started_s,
            first_token_s=self._first_token_s,
            end_s=self._end_s,
            order=np.array(self._order),
            preemptions=sum(counter.preemptions for counter in counters),
            recomputed_tokens=sum(counter.recomputed_tokens for counter in counters),
        )
