"""Requests that wait, in two orders at once: by key, and by arrival. Removal is lazy, cost is logarithmic."""

import heapq
from collections import deque
from typing import Final

from proxy.scheduling.queued import QueuedRequest, State

_COMPACT_AT_LEAST: Final = 64


class WaitingQueue:
    """A priority queue of waiting requests that can also give up its oldest one.

    Entries whose request has left (dispatched, cancelled) or was given another key are dropped when they come
    to the top; when more than half of the entries are such, both orders are rebuilt.
    """

    def __init__(self) -> None:
        self._by_key: list[tuple[int, int, QueuedRequest]] = []
        self._by_arrival: deque[QueuedRequest] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<WaitingQueue {self._size} waiting, {len(self._by_key)} entries>"

    def add(self, item: QueuedRequest) -> None:
        """Add a new request; its key and seq are set. Arrivals come in the order of their seq."""
        item.state = State.WAITING
        heapq.heappush(self._by_key, (item.key_us, item.seq, item))
        self._by_arrival.append(item)
        self._size += 1

    def rekey(self, item: QueuedRequest, key_us: int) -> None:
        """Move a waiting request to another place in key order; its age stays."""
        item.key_us = key_us
        heapq.heappush(self._by_key, (key_us, item.seq, item))
        self._compact()

    def remove(self, item: QueuedRequest, state: State) -> None:
        """Take a waiting request out, leaving it in `state`."""
        item.state = state
        self._size -= 1
        self._compact()

    def first(self) -> QueuedRequest | None:
        """The request with the lowest key; None when nobody waits."""
        while self._by_key:
            key_us, _, item = self._by_key[0]
            if item.state is State.WAITING and item.key_us == key_us:
                return item
            heapq.heappop(self._by_key)
        return None

    def oldest(self) -> QueuedRequest | None:
        """The request that has waited longest; None when nobody waits."""
        while self._by_arrival:
            if self._by_arrival[0].state is State.WAITING:
                return self._by_arrival[0]
            self._by_arrival.popleft()
        return None

    def upcoming(self, count: int) -> list[QueuedRequest]:
        """At most `count` waiting requests, best first, without a look at the rest: O(count log count)."""
        found: list[QueuedRequest] = []
        # A heap's children come after their parent, so the next in order is among the frontier.
        frontier = [(self._by_key[0][:2], 0)] if self._by_key else []
        while frontier and len(found) < count:
            (key_us, _), place = heapq.heappop(frontier)
            item = self._by_key[place][2]
            # A request keyed back to a key it had before has two entries there.
            if item.state is State.WAITING and item.key_us == key_us and item not in found:
                found.append(item)
            for child in (2 * place + 1, 2 * place + 2):
                if child < len(self._by_key):
                    heapq.heappush(frontier, (self._by_key[child][:2], child))
        return found

    def in_key_order(self) -> list[QueuedRequest]:
        """All waiting requests, best first: for the status page and for switching policies."""
        return sorted(self.in_arrival_order(), key=lambda item: (item.key_us, item.seq))

    def in_arrival_order(self) -> list[QueuedRequest]:
        """All waiting requests, oldest first."""
        return [item for item in self._by_arrival if item.state is State.WAITING]

    def best_keys(self, count: int) -> list[int]:
        """The lowest keys of those who wait, at most so many, in order."""
        live = (key for key, _, item in self._by_key if item.state is State.WAITING and item.key_us == key)
        return heapq.nsmallest(count, live)

    def _compact(self) -> None:
        # Each order drops only what comes to its own front, and nobody may ever ask for the oldest.
        if max(len(self._by_key), len(self._by_arrival)) > max(_COMPACT_AT_LEAST, 2 * self._size):
            live = self.in_arrival_order()
            self._by_arrival = deque(live)
            self._by_key = [(item.key_us, item.seq, item) for item in live]
            heapq.heapify(self._by_key)
