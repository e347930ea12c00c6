"""What waits in all, held against its limits; and who goes where the worst waiter is to make room."""

import heapq
from typing import Final

import msgspec

from proxy.scheduling.queued import QueuedRequest, State

_SWEEP_AT_LEAST: Final = 64
_Entry = tuple[int, int, int, QueuedRequest]


class QueueLimits(msgspec.Struct, frozen=True):
    """How much may wait. `shed_worst`: when full, the worst waiter of the lowest tier goes, not the newcomer."""

    max_waiting: int = 10_000
    max_bytes: int = 1 << 30
    max_tokens: float = float("inf")
    shed_worst: bool = False


class Backlog:
    """The sums over everybody who waits."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self.count = 0
        self.body_bytes = 0
        self.tokens = 0.0
        # Worst first; only where that is asked for. Entries of those who left or have another key are dropped lazily.
        self._worst: list[_Entry] = []

    def joined(self, item: QueuedRequest, tier: int) -> None:
        """A request waits from now on, with its key."""
        self._add(item, 1)
        self.keyed(item, tier)

    def left(self, item: QueuedRequest) -> None:
        """It waits no longer."""
        self._add(item, -1)
        if not self.count:
            self.tokens = 0.0  # what rounding has left

    def repredicted(self, before_tokens: float, item: QueuedRequest) -> None:
        """The prediction of one who waits has changed."""
        self.tokens += item.work_tokens - before_tokens

    def keyed(self, item: QueuedRequest, tier: int) -> None:
        """One who waits has got a key."""
        if not self._limits.shed_worst:
            return
        heapq.heappush(self._worst, (-tier, -item.key_us, -item.seq, item))
        if len(self._worst) > 2 * self.count + _SWEEP_AT_LEAST:
            self._worst = [entry for entry in self._worst if _counts(entry)]
            heapq.heapify(self._worst)

    def has_place_for(self, item: QueuedRequest) -> bool:
        """Whether one more may wait."""
        return self._bears(self.count, self.body_bytes, self.tokens, item)

    def making_room_for(self, item: QueuedRequest, tier: int) -> list[QueuedRequest]:
        """Who must go for a newcomer, worst first; nobody where it is itself the worst, or does not fit even so."""
        victims: dict[int, QueuedRequest] = {}
        entries: list[_Entry] = []
        count, body_bytes, tokens = self.count, self.body_bytes, self.tokens
        while not self._bears(count, body_bytes, tokens, item):
            entry = self._worst_entry() if item.body_bytes <= self._limits.max_bytes else None
            if entry is None or (-entry[0], -entry[1]) <= (tier, item.key_us):
                for kept in entries:
                    heapq.heappush(self._worst, kept)
                return []
            entries.append(heapq.heappop(self._worst))
            victim = entry[3]
            if victim.seq not in victims:  # it may have been keyed back to a key it had before
                victims[victim.seq] = victim
                count -= 1
                body_bytes -= victim.body_bytes
                tokens -= victim.work_tokens
        return list(victims.values())

    def _worst_entry(self) -> _Entry | None:
        while self._worst and not _counts(self._worst[0]):
            heapq.heappop(self._worst)
        return self._worst[0] if self._worst else None

    def _bears(self, count: int, body_bytes: int, tokens: float, item: QueuedRequest) -> bool:
        limits = self._limits
        return (
            count < limits.max_waiting
            and body_bytes + item.body_bytes <= limits.max_bytes
            and not (count and tokens + item.work_tokens > limits.max_tokens)
        )

    def _add(self, item: QueuedRequest, sign: int) -> None:
        self.count += sign
        self.body_bytes += sign * item.body_bytes
        self.tokens += sign * item.work_tokens


def _counts(entry: _Entry) -> bool:
    item = entry[3]
    return item.state is State.WAITING and item.key_us == -entry[1]
