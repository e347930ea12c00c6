"""Who runs next, and where. Every change of state is one synchronous call that says what to do now."""

import heapq
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from predictor.prediction import Prediction
from proxy.scheduling.backlog import Backlog, QueueLimits
from proxy.scheduling.classes import ServiceClass, check_classes
from proxy.scheduling.deadlines import Deadlines, hopeless
from proxy.scheduling.fair import Presence, TenantLimits
from proxy.scheduling.placement import next_dispatch
from proxy.scheduling.policy import Policy
from proxy.scheduling.queued import Changes, QueuedRequest, Reason, State
from proxy.scheduling.replica import Replica
from proxy.scheduling.tier import Tier

NOTHING: Final = Changes()


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
        self._backlog = Backlog(limits or QueueLimits())
        self._tenants = dict(tenants or {})
        self._tiers = _make_tiers(classes, self._tenants, lane_share)
        by_number = {tier.number: tier for tier in self._tiers}
        self._tier_by_class = {service.name: by_number[service.tier] for service in classes}
        self._deadlines = Deadlines()
        self._replicas: dict[str, Replica] = {}

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
    def waiting(self) -> int:
        """Requests that wait."""
        return self._backlog.count

    @property
    def waiting_bytes(self) -> int:
        """The size of their bodies."""
        return self._backlog.body_bytes

    @property
    def waiting_tokens(self) -> float:
        """Their predicted work."""
        return self._backlog.tokens

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

    def weight_of(self, tenant: str) -> float:
        """A tenant's share beside others."""
        return self._tenants.get(tenant, TenantLimits()).weight

    def waiting_in_order(self) -> list[QueuedRequest]:
        """Everybody who waits: by tier, then by key (fair queueing between tenants may mix them)."""
        found: list[QueuedRequest] = []
        for tier in self._tiers:
            here = [item for tenant in tier.queue.backlogged() for item in tenant.waiting.in_arrival_order()]
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
        tier = self._tier_of(item)
        if tier.queue.is_full(item.tenant):
            return _refused(item, Reason.TENANT_FULL)
        victims: list[QueuedRequest] = []
        if not self._backlog.has_place_for(item):
            victims = self._backlog.making_room_for(item, tier.number)
            if not victims:
                return _refused(item, Reason.QUEUE_FULL)
        for victim in victims:
            self._leave(victim)
        self._wait(item)
        changes = self._start(now_us)
        refused = [(victim, Reason.QUEUE_FULL) for victim in victims]
        if item.state is State.WAITING and not tier.queue.may_wait(item.tenant):
            self._leave(item)
            refused.append((item, Reason.TENANT_FULL))
        return Changes(changes.started, refused) if refused else changes

    def rekey(self, item: QueuedRequest, prediction: Prediction, now_us: int) -> Changes:
        """A better prediction of a waiting request came; its arrival, and so the bound, stay."""
        if item.state is State.WAITING:
            before_tokens = item.work_tokens
            item.prediction = prediction
            self._backlog.repredicted(before_tokens, item)
            self._rekey(item)
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
        for other in self._tiers:
            if other is not tier:
                other.queue.freed(item.tenant)
        return self._start(now_us)

    def expire(self, now_us: int, tokens_per_s: float | None = None) -> Changes:
        """Refuse whoever's deadline has passed, or, given the engines' speed, cannot be kept any more."""
        gone = self._deadlines.overdue(now_us)
        for item in gone:
            self._leave(item)
        if tokens_per_s and self._may_be_late(now_us, tokens_per_s):
            late = hopeless(self._tiers, now_us, tokens_per_s, self._places())
            for item in late:
                self._leave(item)
            gone += late
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
            self._rekey(item)
        return self._start(now_us)

    def limit_tenants(self, tenants: Mapping[str, TenantLimits], now_us: int) -> Changes:
        """Other weights and limits from now on; what a tenant has beyond them is not taken from it."""
        self._tenants = limits = dict(tenants)
        presences = {name: Presence() for name in limits}
        for tier in self._tiers:
            tier.queue.limit(limits, presences)
        for tier in self._tiers:
            for tenant in tier.queue:
                tier.queue.freed(tenant.name)
        return self._start(now_us)

    def _rekey(self, item: QueuedRequest) -> None:
        tier = self._tier_of(item)
        tier.queue.rekey(item, self._key(item))
        self._backlog.keyed(item, tier.number)

    def _key(self, item: QueuedRequest) -> int:
        service = self._classes[item.class_name]
        return service.policy.key_us(item.arrival_us, item.prediction) + service.offset_us

    def _tier_of(self, item: QueuedRequest) -> Tier:
        return self._tier_by_class[item.class_name]

    def _wait(self, item: QueuedRequest) -> None:
        tier = self._tier_of(item)
        tier.queue.add(item)
        self._deadlines.add(item)
        self._backlog.joined(item, tier.number)

    def _leave(self, item: QueuedRequest) -> None:
        self._tier_of(item).queue.remove(item, State.FINISHED)
        self._backlog.left(item)

    def _may_be_late(self, now_us: int, tokens_per_s: float) -> bool:
        """Whether the first deadline comes before all that waits is computed: most times nobody need be looked at."""
        first_us = self._deadlines.next_us()
        return first_us is not None and now_us + self._backlog.tokens / tokens_per_s * 1e6 > first_us

    def _places(self) -> int:
        """How many requests the engines take together, at least one; without a limit more than ever wait."""
        windows = (replica.window for replica in self._replicas.values())
        return max(1, sum(self._backlog.count + 1 if window is None else window for window in windows))

    def _start(self, now_us: int) -> Changes:
        if not self.waiting:
            return NOTHING
        started: list[QueuedRequest] = []
        while (
            self.waiting
            and (found := next_dispatch(self._tiers, self._replicas.values(), now_us)) is not None
        ):
            tier, replica, item = found
            tier.queue.send(item)
            self._backlog.left(item)
            item.dispatched_us = now_us
            replica.start(item, tier.number)
            started.append(item)
        return Changes(started) if started else NOTHING


def _refused(item: QueuedRequest, reason: Reason) -> Changes:
    item.state = State.FINISHED
    return Changes(refused=[(item, reason)])


def _make_tiers(
    classes: Sequence[ServiceClass], tenants: dict[str, TenantLimits], lane_share: float
) -> list[Tier]:
    members = {service.tier: service for service in classes}
    presences = {name: Presence() for name in tenants}
    return [Tier(number, members[number], tenants, lane_share, presences) for number in sorted(members)]
