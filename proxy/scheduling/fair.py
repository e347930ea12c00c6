"""Weighted fair queueing between tenants; inside a tenant the key decides, and a lane serves the oldest.

Virtual counters after Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): a tenant is
charged the predicted tokens when its request is sent, and the difference to the actual ones when it ends.
"""

import heapq
from collections.abc import Iterator
from typing import Final

import msgspec

from proxy.scheduling.queued import QueuedRequest, State
from proxy.scheduling.waiting import WaitingQueue

# Idle tenants are forgotten beyond this many, those with the smallest debt first.
_REMEMBERED: Final = 10_000


class TenantLimits(msgspec.Struct, frozen=True):
    """What one tenant may take. `weight`: its share beside others; None: no limit."""

    weight: float = 1.0
    max_running: int | None = None
    max_waiting: int | None = None


class Tenant(msgspec.Struct, eq=False):
    """One tenant's queue and account. `counter`: tokens served over weight; `running`: requests sent."""

    name: str
    limits: TenantLimits
    counter: float = 0.0
    running: int = 0
    lane_credit: float = 0.0
    waiting: WaitingQueue = msgspec.field(default_factory=WaitingQueue)

    @property
    def may_send(self) -> bool:
        """Whether one of its requests may be sent now."""
        return len(self.waiting) > 0 and (
            self.limits.max_running is None or self.running < self.limits.max_running
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it waits or runs."""
        return not len(self.waiting) and not self.running


class FairQueue:
    """The tenants of one tier. `next()` gives the request that fairness, lane and key choose."""

    def __init__(self, limits: dict[str, TenantLimits], lane_share: float) -> None:
        self._limits = limits
        self.lane_share = lane_share
        self._tenants: dict[str, Tenant] = {}
        # Lazy: an entry counts while its tenant still has that counter and may send.
        self._by_counter: list[tuple[float, str]] = []
        self._floor = 0.0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())

    def backlogged(self) -> Iterator[Tenant]:
        """The tenants of whom something waits."""
        return (tenant for tenant in self._tenants.values() if len(tenant.waiting))

    def is_full(self, name: str) -> bool:
        """Whether a tenant has as many waiting as it may."""
        tenant = self._tenants.get(name)
        most = self._limits.get(name, TenantLimits()).max_waiting
        return most is not None and tenant is not None and len(tenant.waiting) >= most

    def _account(self, name: str) -> Tenant:
        known = self._tenants.get(name)
        if known is None:
            known = self._tenants[name] = Tenant(name, self._limits.get(name, TenantLimits()))
        return known

    def add(self, item: QueuedRequest) -> None:
        """Let a keyed request wait."""
        tenant = self._account(item.tenant)
        newly_active = not len(tenant.waiting)
        if newly_active:
            # What it left unused while it was away is gone, what it owes is not.
            tenant.counter = max(tenant.counter, self._lowest())
        tenant.waiting.add(item)
        self._size += 1
        if newly_active:
            self._offer(tenant)

    def rekey(self, item: QueuedRequest, key_us: int) -> None:
        """Give a waiting request another key."""
        self._tenants[item.tenant].waiting.rekey(item, key_us)

    def remove(self, item: QueuedRequest, state: State) -> None:
        """Take a waiting request out without sending it."""
        self._tenants[item.tenant].waiting.remove(item, state)
        self._size -= 1

    def next(self) -> QueuedRequest | None:
        """The request to send next; it stays until `send`. None where nobody may send."""
        tenant = self._poorest()
        return None if tenant is None else self._choose(tenant)

    def send(self, item: QueuedRequest) -> None:
        """`item`, given by `next`, is sent: its tenant is charged the predicted tokens."""
        tenant = self._tenants[item.tenant]
        self._floor = max(self._floor, tenant.counter)
        tenant.waiting.remove(item, State.RUNNING)
        self._size -= 1
        tenant.running += 1
        tenant.lane_credit = self._credit_after(tenant)
        item.charged = item.work_tokens
        self._charge(tenant, item.charged)

    def finish(self, item: QueuedRequest, actual_tokens: float | None) -> None:
        """A sent request ended; the charge is corrected where the actual tokens are known."""
        tenant = self._tenants[item.tenant]
        tenant.running -= 1
        self._charge(tenant, 0.0 if actual_tokens is None else actual_tokens - item.charged)
        if tenant.is_idle and (tenant.counter <= self._floor or len(self._tenants) > _REMEMBERED):
            del self._tenants[tenant.name]

    def _charge(self, tenant: Tenant, tokens: float) -> None:
        tenant.counter += tokens / tenant.limits.weight
        self._offer(tenant)

    def _offer(self, tenant: Tenant) -> None:
        if tenant.may_send:
            heapq.heappush(self._by_counter, (tenant.counter, tenant.name))

    def _poorest(self) -> Tenant | None:
        while self._by_counter:
            counter, name = self._by_counter[0]
            tenant = self._tenants.get(name)
            if tenant is not None and tenant.counter == counter and tenant.may_send:
                return tenant
            heapq.heappop(self._by_counter)
        return None

    def _lowest(self) -> float:
        """Where a newly active tenant begins: the poorest of those who wait, else where service stands."""
        poorest = self._poorest()
        return self._floor if poorest is None else poorest.counter

    def _choose(self, tenant: Tenant) -> QueuedRequest | None:
        if tenant.lane_credit + self.lane_share >= 1.0:
            return tenant.waiting.oldest()
        return tenant.waiting.first()

    def _credit_after(self, tenant: Tenant) -> float:
        credit = tenant.lane_credit + self.lane_share
        return credit - 1.0 if credit >= 1.0 else credit
