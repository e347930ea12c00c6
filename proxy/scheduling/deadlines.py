"""Requests that must have been sent by a certain time, and which of them can no longer make it."""

import heapq
from collections.abc import Iterable

from proxy.scheduling.queued import QueuedRequest, State
from proxy.scheduling.tier import Tier


class Deadlines:
    """The waiting requests with a deadline, earliest first; entries of those who left are dropped lazily."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, QueuedRequest]] = []

    def add(self, item: QueuedRequest) -> None:
        """Watch a request; nothing happens where it has no deadline."""
        if item.deadline_us is not None:
            heapq.heappush(self._heap, (item.deadline_us, item.seq, item))

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


def hopeless(tiers: Iterable[Tier], now_us: int, tokens_per_s: float) -> list[QueuedRequest]:
    """Who cannot be sent in time even if every answer ahead is as short as its tenth percentile.

    Ahead of a request is all of the better tiers and what has a lower key in its own tenant; other tenants
    are left out, so that this errs on the side of waiting. `tokens_per_s`: what the engines compute together.
    """
    found = []
    better_tokens = 0.0
    for tier in tiers:
        tier_tokens = 0.0
        for tenant in tier.queue:
            ahead_tokens = 0.0
            for item in tenant.waiting.in_key_order():
                wait_us = (better_tokens + ahead_tokens) / tokens_per_s * 1e6
                if item.deadline_us is not None and now_us + wait_us > item.deadline_us:
                    found.append(item)
                else:
                    ahead_tokens += item.answers * item.prediction.p10_tokens
            tier_tokens += ahead_tokens
        better_tokens += tier_tokens
    return found
