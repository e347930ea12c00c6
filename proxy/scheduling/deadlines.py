"""Requests that must have been sent by a certain time, and which of them can no longer make it."""

import heapq
from collections.abc import Iterable
from typing import Final, Self

from proxy.scheduling.fair import Tenant
from proxy.scheduling.queued import QueuedRequest, State
from proxy.scheduling.tier import Tier

_SWEEP_AT_LEAST: Final = 64


class Deadlines:
    """The waiting requests with a deadline, earliest first.

    Entries of those who left are dropped when they come to the top, and all of them whenever they may have
    become half of what is kept: a far deadline must not keep a request in memory that ended long ago.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, QueuedRequest]] = []
        self._sweep_at = _SWEEP_AT_LEAST

    def add(self, item: QueuedRequest) -> None:
        """Watch a request; nothing happens where it has no deadline."""
        if item.deadline_us is None:
            return
        heapq.heappush(self._heap, (item.deadline_us, item.seq, item))
        if len(self._heap) >= self._sweep_at:
            self._heap = [entry for entry in self._heap if entry[2].state is State.WAITING]
            heapq.heapify(self._heap)
            self._sweep_at = max(_SWEEP_AT_LEAST, 2 * len(self._heap))

    def next_us(self) -> int | None:
        """The earliest deadline of anybody who waits; None where nobody has one."""
        while self._heap and self._heap[0][2].state is not State.WAITING:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def overdue(self, now_us: int) -> list[QueuedRequest]:
        """Everybody who waits and whose time has come; they are watched no longer."""
        found = []
        while (first := self.next_us()) is not None and first <= now_us:
            found.append(heapq.heappop(self._heap)[2])
        return found


class _Ahead:
    """The fewest tokens that must have been computed before somebody behind all of these is sent.

    He is sent when all of them have been, while as many as there are other places may still be computed: at
    best the longest of them.
    """

    def __init__(self, places: int) -> None:
        self._others = places - 1
        self._longest: list[float] = []
        self.tokens = 0.0

    def copy(self) -> Self:
        copied = type(self)(self._others + 1)
        copied._longest = self._longest.copy()
        copied.tokens = self.tokens
        return copied

    def add(self, tokens: float) -> None:
        if len(self._longest) < self._others:
            heapq.heappush(self._longest, tokens)
        else:
            self.tokens += heapq.heappushpop(self._longest, tokens)


def hopeless(tiers: Iterable[Tier], now_us: int, tokens_per_s: float, places: int) -> list[QueuedRequest]:
    """Who cannot be sent in time even if every answer ahead is as short as its tenth percentile.

    Ahead of a request is what has a lower key in its own tenant, and all of the better tiers where its own has
    no share of the dispatches; other tenants, tiers outside of their hours and whoever the lane may fetch are
    left out, so that this errs on the side of waiting. `tokens_per_s`: what the engines compute together;
    `places`: how many requests they take together.
    """
    found: list[QueuedRequest] = []
    better = _Ahead(places)
    for tier in tiers:
        if not tier.is_open(now_us):
            continue
        start = _Ahead(places) if tier.min_share else better
        own: list[QueuedRequest] = []
        for tenant in tier.queue.backlogged():
            late, rest = _divided(tenant, start.copy(), tier.queue.lane_share, now_us, tokens_per_s)
            found += late
            own += rest
        for item in own:
            better.add(_fewest_tokens(item))
    return found


def _divided(
    tenant: Tenant, ahead: _Ahead, lane_share: float, now_us: int, tokens_per_s: float
) -> tuple[list[QueuedRequest], list[QueuedRequest]]:
    """Those of a tenant's waiters who come too late behind what is `ahead` of all, and the others."""
    late: list[QueuedRequest] = []
    rest: list[QueuedRequest] = []
    age = {item.seq: place for place, item in enumerate(tenant.waiting.in_arrival_order())}
    for place, item in enumerate(tenant.waiting.in_key_order()):
        begin_us = now_us + ahead.tokens / tokens_per_s * 1e6
        # So many dispatches fetch at most `lane_share` of them out of order, the oldest first.
        fetched = lane_share > 0 and age[item.seq] - len(late) < lane_share * place + 1
        if item.deadline_us is not None and begin_us > item.deadline_us and not fetched:
            late.append(item)
        else:
            rest.append(item)
            ahead.add(_fewest_tokens(item))
    return late, rest


def _fewest_tokens(item: QueuedRequest) -> float:
    return item.answers * item.prediction.p10_tokens
