"""Who runs next, and where. Every change of state is one synchronous call that says what to do now."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from predictor.prediction import Prediction
from proxy.scheduling.classes import ServiceClass, check_classes
from proxy.scheduling.deadlines import Deadlines, hopeless
from proxy.scheduling.fair import TenantLimits
from proxy.scheduling.policy import Policy
from proxy.scheduling.queued import Changes, QueuedRequest, Reason, State
from proxy.scheduling.replica import Replica
from proxy.scheduling.tier import Tier

NOTHING: Final = Changes()
_RUNNING: Final = attrgetter("running")


class QueueLimits(msgspec.Struct, frozen=True):
    """How much may wait. `shed_worst`: when full, the worst waiter of the lowest tier goes, not the newcomer."""

    max_waiting: int = 10_000
    max_bytes: int = 1 << 30
    max_tokens: float = float("inf")
    shed_worst: bool = False


class Scheduler:
    """The queue in front of the engines.

    Each call changes the state and returns the requests to send now, already marked running with their
    replica, and those to refuse. There is no other way to start a request. Promise: under a policy with an
    overtaking bound D, within one class and tenant, nobody is sent after a request that arrived more than D
    later and could have run on the same replica.
    """

    def __init__(
        self,
        classes: Sequence[ServiceClass],
        *,
        lane_share: float = 0.0,
        tenants: Mapping[str, TenantLimits] | None = None,
        limits: QueueLimits | None = None,
    ) -> None:
        """`lane_share` in [0, 1]: the share of a tenant's dispatches that go to its oldest waiter.

        Raises ValueError where the classes contradict each other.
        """
        check_classes(classes)
        self._classes = {service.name: service for service in classes}
        self._limits = limits or QueueLimits()
        self._tiers = _make_tiers(classes, dict(tenants or {}), lane_share)
        by_number = {tier.number: tier for tier in self._tiers}
        self._tier_by_class = {service.name: by_number[service.tier] for service in classes}
        self._deadlines = Deadlines()
        self._replicas: dict[str, Replica] = {}
        self.waiting = 0
        self.waiting_bytes = 0
        self.waiting_tokens = 0.0

    def __repr__(self) -> str:
        return f"<Scheduler waiting={self.waiting} running={self.running} tiers={self._tiers}>"

    @property
    def classes(self) -> tuple[ServiceClass, ...]:
        """The classes, in the order of the configuration."""
        return tuple(self._classes.values())

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The tiers, best first."""
        return tuple(self._tiers)

    @property
    def running(self) -> int:
        """Requests sent to an engine and not yet finished."""
        return sum(replica.running for replica in self._replicas.values())

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The engines, in the order in which they were added."""
        return tuple(self._replicas.values())

    def replica(self, name: str) -> Replica:
        """One engine; raises KeyError for an unknown name."""
        return self._replicas[name]

    def policy_of(self, class_name: str) -> Policy:
        """The policy that orders a class."""
        return self._classes[class_name].policy

    def waiting_in_order(self) -> list[QueuedRequest]:
        """Everybody who waits: by tier, then by key (fair queueing between tenants may mix them)."""
        found: list[QueuedRequest] = []
        for tier in self._tiers:
            here = [item for tenant in tier.queue for item in tenant.waiting.in_key_order()]
            found.extend(sorted(here, key=lambda item: (item.key_us, item.seq)))
        return found

    def upcoming(self, count: int) -> list[QueuedRequest]:
        """At most `count` of those who are likely to be sent next, best first."""
        found: list[QueuedRequest] = []
        for tier in self._tiers:
            here = [item for tenant in tier.queue.backlogged() for item in tenant.waiting.upcoming(count)]
            found.extend(heapq.nsmallest(count - len(found), here, key=lambda item: (item.key_us, item.seq)))
        return found

    def add_replica(self, name: str, window: int | None, now_us: int) -> Changes:
        """Add an engine; raises ValueError where the name is taken."""
        if name in self._replicas:
            raise ValueError(f"engine '{name}' is already there")
        self._replicas[name] = Replica(name, window)
        return self._start(now_us)

    def remove_replica(self, name: str) -> None:
        """Forget an engine; raises ValueError while something of ours runs there."""
        if self._replicas[name].running:
            raise ValueError(f"engine '{name}' still has requests")
        del self._replicas[name]

    def set_window(self, name: str, window: int | None, now_us: int) -> Changes:
        """Change how many requests may be at one engine at once."""
        self._replicas[name].window = window
        return self._start(now_us)

    def set_available(self, name: str, available: bool, now_us: int) -> Changes:
        """Stop or resume sending to one engine; what runs there goes on."""
        self._replicas[name].available = available
        return self._start(now_us)

    def submit(self, item: QueuedRequest, now_us: int) -> Changes:
        """Admit a new request: it starts at once, waits, or is refused because too much waits already."""
        item.key_us = self._key(item)
        reason = self._no_place_for(item)
        if reason is Reason.TENANT_FULL:
            return _refused(item, reason)
        if reason is None:
            self._wait(item)
            return self._start(now_us)
        return self._shed(item, now_us)

    def rekey(self, item: QueuedRequest, prediction: Prediction, now_us: int) -> Changes:
        """A better prediction of a waiting request came; its arrival, and so the bound, stay."""
        if item.state is State.WAITING:
            self.waiting_tokens -= item.work_tokens
            item.prediction = prediction
            self.waiting_tokens += item.work_tokens
            self._tier_of(item).queue.rekey(item, self._key(item))
        return self._start(now_us)

    def cancel(self, item: QueuedRequest, now_us: int) -> Changes:
        """The client has gone. Waiting or running, the request is finished; harmless when it already was."""
        if item.state is State.WAITING:
            self._leave(item)
            return self._start(now_us)  # it may have been too large for the KV cache, and the next one is not
        return self.finish(item, now_us)

    def finish(self, item: QueuedRequest, now_us: int, actual_tokens: float | None = None) -> Changes:
        """A running request has ended, in whatever way; `actual_tokens`: prompt and answers, where known."""
        if item.state is not State.RUNNING or item.replica is None:
            return NOTHING
        item.state = State.FINISHED
        tier, replica = self._tier_of(item), self._replicas[item.replica]
        replica.finish(item, tier.number)
        tier.queue.finish(item, actual_tokens)
        return self._start(now_us)

    def expire(self, now_us: int, tokens_per_s: float | None = None) -> Changes:
        """Refuse whoever's deadline has passed, or, given the engines' speed, cannot be kept any more."""
        gone = self._deadlines.overdue(now_us)
        if tokens_per_s and self._deadlines.next_us() is not None:
            gone += [item for item in hopeless(self._tiers, now_us, tokens_per_s) if item not in gone]
        for item in gone:
            self._leave(item)
        return Changes(self._start(now_us).started, [(item, Reason.EXPIRED) for item in gone])

    def tick(self, now_us: int) -> Changes:
        """Time has passed: a class's hours may have begun."""
        return self._start(now_us)

    def switch_policies(self, policies: Mapping[str, Policy], now_us: int) -> Changes:
        """Use other policies from now on; whoever waits is keyed anew, so all keys stay comparable."""
        changed = [
            msgspec.structs.replace(service, policy=policies.get(service.name, service.policy))
            for service in self._classes.values()
        ]
        check_classes(changed)
        self._classes = {service.name: service for service in changed}
        for item in self.waiting_in_order():
            self._tier_of(item).queue.rekey(item, self._key(item))
        return self._start(now_us)

    def _key(self, item: QueuedRequest) -> int:
        service = self._classes[item.class_name]
        return service.policy.key_us(item.arrival_us, item.prediction) + service.offset_us

    def _tier_of(self, item: QueuedRequest) -> Tier:
        return self._tier_by_class[item.class_name]

    def _wait(self, item: QueuedRequest) -> None:
        self._tier_of(item).queue.add(item)
        self._deadlines.add(item)
        self._count(item, 1)

    def _leave(self, item: QueuedRequest) -> None:
        self._tier_of(item).queue.remove(item, State.FINISHED)
        self._count(item, -1)

    def _count(self, item: QueuedRequest, sign: int) -> None:
        self.waiting += sign
        self.waiting_bytes += sign * item.body_bytes
        self.waiting_tokens += sign * item.work_tokens

    def _no_place_for(self, item: QueuedRequest) -> Reason | None:
        if self._tier_of(item).queue.is_full(item.tenant):
            return Reason.TENANT_FULL
        full = (
            self.waiting >= self._limits.max_waiting
            or self.waiting_bytes + item.body_bytes > self._limits.max_bytes
            or (self.waiting and self.waiting_tokens + item.work_tokens > self._limits.max_tokens)
        )
        return Reason.QUEUE_FULL if full else None

    def _shed(self, item: QueuedRequest, now_us: int) -> Changes:
        """The queue is full: refuse the newcomer, or the worst waiter where that is wanted and worse."""
        victim = self._worst() if self._limits.shed_worst else None
        if victim is None or self._rank(victim) <= self._rank(item):
            return _refused(item, Reason.QUEUE_FULL)
        self._leave(victim)
        self._wait(item)
        changes = self._start(now_us)
        return Changes(changes.started, [(victim, Reason.QUEUE_FULL), *changes.refused])

    def _worst(self) -> QueuedRequest | None:
        in_order = self.waiting_in_order()
        return in_order[-1] if in_order else None

    def _rank(self, item: QueuedRequest) -> tuple[int, int]:
        return (self._classes[item.class_name].tier, item.key_us)

    def _start(self, now_us: int) -> Changes:
        if not self.waiting:
            return NOTHING
        started: list[QueuedRequest] = []
        while self.waiting and (found := self._next(now_us)) is not None:
            tier, replica, item = found
            tier.queue.send(item)
            self._count(item, -1)
            item.dispatched_us = now_us
            replica.start(item, tier.number)
            started.append(item)
        return Changes(started) if started else NOTHING

    def _next(self, now_us: int) -> tuple[Tier, Replica, QueuedRequest] | None:
        """The tier whose turn it is, the least busy engine that takes it, and the request."""
        with_room = [replica for replica in self._replicas.values() if replica.has_room]
        if not with_room:
            return None
        with_room.sort(key=_RUNNING)
        waiting = [tier for tier in self._tiers if len(tier.queue)]
        if len(waiting) > 1:
            waiting.sort(key=lambda tier: (not tier.claims, tier.number))
        for tier in waiting:
            item = tier.queue.next()
            replica = None if item is None else self._taker(tier, item, with_room, now_us)
            if replica is not None and item is not None:
                for other in waiting:
                    other.dispatched(here=other is tier)
                return tier, replica, item
        return None

    def _taker(
        self, tier: Tier, item: QueuedRequest, with_room: Iterable[Replica], now_us: int
    ) -> Replica | None:
        """The least busy engine that may take it now; the one that has its prompt cached if that is free too."""
        found: Replica | None = None
        for replica in with_room:
            used = replica.by_tier.get(tier.number, 0)
            if not tier.may_use(replica.window, used, now_us) or not replica.bears(item):
                continue
            if replica.name == item.bound_to or item.bound_to is None:
                return replica
            found = found or replica
        return found


def _refused(item: QueuedRequest, reason: Reason) -> Changes:
    item.state = State.FINISHED
    return Changes(refused=[(item, reason)])


def _make_tiers(
    classes: Sequence[ServiceClass], tenants: dict[str, TenantLimits], lane_share: float
) -> list[Tier]:
    members = {service.tier: service for service in classes}
    return [Tier(number, members[number], tenants, lane_share) for number in sorted(members)]
