"""Weighted fair queueing between tenants; inside a tenant the key decides, and a lane serves the oldest.

Virtual counters after Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): a tenant is
charged the predicted tokens when its request is sent, and the difference to the actual ones when it ends.
"""

import heapq
from collections.abc import Iterator
from operator import attrgetter
from typing import Final

import msgspec

from proxy.scheduling.queued import QueuedRequest, State
from proxy.scheduling.waiting import WaitingQueue

# When accounts are swept, so many idle tenants are remembered at most: those who owe most.
_REMEMBERED: Final = 10_000
_COUNTER: Final = attrgetter("counter")


class TenantLimits(msgspec.Struct, frozen=True):
    """What one tenant may take. `weight`: its share beside others; None: no limit."""

    weight: float = 1.0
    max_running: int | None = None
    max_waiting: int | None = None


class Presence(msgspec.Struct, eq=False):
    """What one tenant has running and waiting in all tiers together: its limits are over all of them."""

    running: int = 0
    waiting: int = 0


class Tenant(msgspec.Struct, eq=False):
    """One tenant's queue and account in one tier.

    `counter`: tokens served over weight, `offered` the one under which it stands in the order of tenants;
    `running`: requests sent.
    """

    name: str
    limits: TenantLimits
    presence: Presence
    counter: float = 0.0
    offered: float | None = None
    running: int = 0
    lane_credit: float = 0.0
    waiting: WaitingQueue = msgspec.field(default_factory=WaitingQueue)

    @property
    def may_send(self) -> bool:
        """Whether one of its requests may be sent now."""
        return len(self.waiting) > 0 and (
            self.limits.max_running is None or self.presence.running < self.limits.max_running
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it waits or runs."""
        return not len(self.waiting) and not self.running


class FairQueue:
    """The tenants of one tier. `next()` gives the request that fairness, lane and key choose."""

    def __init__(
        self,
        limits: dict[str, TenantLimits],
        lane_share: float,
        presences: dict[str, Presence] | None = None,
    ) -> None:
        """`presences`: of the tenants with limits, shared by all tiers."""
        self._limits = limits
        self.lane_share = lane_share
        self._presences = {name: Presence() for name in limits} if presences is None else presences
        self._tenants: dict[str, Tenant] = {}
        self._backlogged: dict[str, Tenant] = {}
        # Lazy: an entry counts while its tenant still has that counter and may send.
        self._by_counter: list[tuple[float, str]] = []
        self._floor = 0.0
        self._size = 0
        self._sweep_at = 2 * _REMEMBERED

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())

    def backlogged(self) -> Iterator[Tenant]:
        """The tenants of whom something waits, without a look at the thousands who are remembered."""
        return iter(self._backlogged.values())

    def limit(self, limits: dict[str, TenantLimits], presences: dict[str, Presence]) -> None:
        """Other limits from now on; whoever they let send again is `freed` once all tiers know them."""
        self._limits = limits
        self._presences = presences
        for tenant in self._tenants.values():
            tenant.limits = limits.get(tenant.name, TenantLimits())
            tenant.presence = presences.get(tenant.name) or Presence()
            tenant.presence.running += tenant.running
            tenant.presence.waiting += len(tenant.waiting)

    def is_full(self, name: str) -> bool:
        """Whether a tenant has as many waiting as it may; one that may have none is asked after it was tried."""
        most = self._most_waiting(name)
        return most is not None and self._presences[name].waiting >= max(1, most)

    def may_wait(self, name: str) -> bool:
        """Whether a tenant may have anything waiting at all."""
        return self._most_waiting(name) != 0

    def _most_waiting(self, name: str) -> int | None:
        limits = self._limits.get(name)
        return None if limits is None else limits.max_waiting

    def _account(self, name: str) -> Tenant:
        known = self._tenants.get(name)
        if known is None:
            if len(self._tenants) >= self._sweep_at:
                self._sweep()
            limits = self._limits.get(name, TenantLimits())
            known = self._tenants[name] = Tenant(name, limits, self._presences.get(name) or Presence())
        return known

    def _sweep(self) -> None:
        """Forget who owes nothing, and of the others all but those who owe most; who waits or runs is kept."""
        idle = [tenant for tenant in self._tenants.values() if tenant.is_idle]
        owing = heapq.nlargest(_REMEMBERED, (t for t in idle if t.counter > self._floor), key=_COUNTER)
        kept = {tenant.name for tenant in owing}
        for tenant in idle:
            if tenant.name not in kept:
                del self._tenants[tenant.name]
        self._sweep_at = max(2 * _REMEMBERED, 2 * len(self._tenants))

    def add(self, item: QueuedRequest) -> None:
        """Let a keyed request wait."""
        tenant = self._account(item.tenant)
        newly_active = not len(tenant.waiting)
        if newly_active:
            # What it left unused while it was away is gone, what it owes is not.
            tenant.counter = max(tenant.counter, self._lowest())
        tenant.waiting.add(item)
        tenant.presence.waiting += 1
        self._size += 1
        if newly_active:
            self._backlogged[tenant.name] = tenant
            self._offer(tenant)

    def rekey(self, item: QueuedRequest, key_us: int) -> None:
        """Give a waiting request another key."""
        self._tenants[item.tenant].waiting.rekey(item, key_us)

    def remove(self, item: QueuedRequest, state: State) -> None:
        """Take a waiting request out without sending it."""
        tenant = self._tenants[item.tenant]
        self._leave(tenant, item, state)
        self._forget(tenant)

    def next(self) -> QueuedRequest | None:
        """The request to send next; it stays until `send`. None where nobody may send."""
        tenant = self._poorest()
        return None if tenant is None else self._choose(tenant)

    def send(self, item: QueuedRequest) -> None:
        """`item`, given by `next`, is sent: its tenant is charged the predicted tokens."""
        tenant = self._tenants[item.tenant]
        self._floor = max(self._floor, tenant.counter)
        self._leave(tenant, item, State.RUNNING)
        tenant.running += 1
        tenant.presence.running += 1
        tenant.lane_credit = self._credit_after(tenant)
        item.charged = item.work_tokens
        self._charge(tenant, item.charged)

    def finish(self, item: QueuedRequest, actual_tokens: float | None) -> None:
        """A sent request ended; the charge is corrected where the actual tokens are known."""
        tenant = self._tenants[item.tenant]
        tenant.running -= 1
        tenant.presence.running -= 1
        self._charge(tenant, 0.0 if actual_tokens is None else actual_tokens - item.charged)
        self._forget(tenant)

    def freed(self, name: str) -> None:
        """One of a tenant's requests in another tier has ended: it may be able to send here again."""
        tenant = self._tenants.get(name)
        if tenant is not None:
            self._offer(tenant)

    def _leave(self, tenant: Tenant, item: QueuedRequest, state: State) -> None:
        tenant.waiting.remove(item, state)
        tenant.presence.waiting -= 1
        self._size -= 1
        if not len(tenant.waiting):
            del self._backlogged[tenant.name]

    def _forget(self, tenant: Tenant) -> None:
        if tenant.is_idle and tenant.counter <= self._floor:
            del self._tenants[tenant.name]

    def _charge(self, tenant: Tenant, tokens: float) -> None:
        tenant.counter += tokens / tenant.limits.weight
        self._offer(tenant)

    def _offer(self, tenant: Tenant) -> None:
        if tenant.may_send and tenant.offered != tenant.counter:
            heapq.heappush(self._by_counter, (tenant.counter, tenant.name))
            tenant.offered = tenant.counter

    def _poorest(self) -> Tenant | None:
        while self._by_counter:
            counter, name = self._by_counter[0]
            tenant = self._tenants.get(name)
            if tenant is not None:
                if tenant.counter == counter and tenant.may_send:
                    return tenant
                if tenant.offered == counter:
                    tenant.offered = None
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
