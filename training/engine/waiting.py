"""The engine's own waiting queue, under vLLM's two scheduling policies."""

import heapq
from enum import StrEnum


class SchedulingPolicy(StrEnum):
    """vLLM's `--scheduling-policy`."""

    FCFS = "fcfs"
    PRIORITY = "priority"


class WaitingQueue:
    """Ids of the sequences that wait for a slot, best first; after vLLM's `v1/core/sched/request_queue.py`.

    `priority`: lower priority value first, then the earlier arrival, then the lower id; a preempted sequence
    goes back to its place. `fcfs`: as they came; a preempted sequence goes to the very front. Removal is
    lazy, so an abort costs little in a long queue.
    """

    def __init__(self, policy: SchedulingPolicy) -> None:
        self._by_priority = policy is SchedulingPolicy.PRIORITY
        self._heap: list[tuple[int, int, int]] = []
        self._keys: dict[int, tuple[int, int, int]] = {}
        self._back = 0
        self._front = 0

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, sequence_id: int) -> bool:
        return sequence_id in self._keys

    def push(self, sequence_id: int, priority: int, arrival: int) -> None:
        """Join the queue on arrival."""
        self._back += 1
        self._insert(sequence_id, priority, arrival, self._back)

    def push_preempted(self, sequence_id: int, priority: int, arrival: int) -> None:
        """Come back after a preemption."""
        self._front -= 1
        self._insert(sequence_id, priority, arrival, self._front)

    def peek(self) -> int:
        """The id of the best waiter; the queue must not be empty."""
        while True:
            key = self._heap[0]
            if self._keys.get(key[2]) == key:
                return key[2]
            heapq.heappop(self._heap)

    def remove(self, sequence_id: int) -> None:
        """Take out a waiter; KeyError if it does not wait."""
        del self._keys[sequence_id]

    def _insert(self, sequence_id: int, priority: int, arrival: int, place: int) -> None:
        key = (priority, arrival, sequence_id) if self._by_priority else (place, 0, sequence_id)
        self._keys[sequence_id] = key
        heapq.heappush(self._heap, key)
