"""The scheduler's promises, held against random histories."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scheduling import D_US, TENANTS, predicted

from predictor.prediction import Prediction
from proxy.scheduling.backlog import QueueLimits
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.fair import TenantLimits
from proxy.scheduling.policy import Fcfs, Policy, Quantile, Work
from proxy.scheduling.queued import Changes, QueuedRequest, State
from proxy.scheduling.scheduler import Scheduler

CLASSES = ("fast", "slow", "batch")


class SchedulerMachine(RuleBasedStateMachine):
    """Random arrivals, ends, cancels, deadlines, re-predictions, window changes and engine losses."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 0
        self.items: list[QueuedRequest] = []
        self.started: list[QueuedRequest] = []
        self.ends: Counter[int] = Counter()

    @initialize(
        policy=st.sampled_from([Fcfs(), Quantile(D_US), Quantile(0)]),
        lane=st.sampled_from([0.0, 0.3, 1.0]),
        min_share=st.sampled_from([0.0, 0.25]),
        windows=st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=3),
        limits=st.sampled_from([QueueLimits(), QueueLimits(max_waiting=4), QueueLimits(4, shed_worst=True)]),
        tenant_limits=st.sampled_from([{}, {"ann": TenantLimits(2.0, 1, 2)}]),
    )
    def begin(
        self,
        policy: Policy,
        lane: float,
        min_share: float,
        windows: list[int | None],
        limits: QueueLimits,
        tenant_limits: dict[str, TenantLimits],
    ) -> None:
        classes = (
            ServiceClass("fast", policy),
            ServiceClass("slow", Quantile(D_US), offset_us=D_US // 2),
            ServiceClass("batch", Fcfs(), tier=1, min_share=min_share, window_share=0.5),
        )
        self.tenant_limits = tenant_limits
        self.scheduler = Scheduler(classes, lane_share=lane, limits=limits, tenants=tenant_limits)
        for number, window in enumerate(windows):
            self.took(self.scheduler.add_replica(f"engine-{number}", window, self.now_us))

    def waiting_items(self) -> list[QueuedRequest]:
        return [item for item in self.items if item.state is State.WAITING]

    def running_items(self) -> list[QueuedRequest]:
        return [item for item in self.items if item.state is State.RUNNING]

    def took(self, changes: Changes) -> None:
        """Check promise 2 at every dispatch, in its exact words, against everybody who still waits."""
        left_behind = self.waiting_items()
        for place, item in enumerate(changes.started):
            bound_us = self.scheduler.policy_of(item.class_name).overtake_bound_us
            for other in left_behind + changes.started[place + 1 :]:
                same_queue = (other.class_name, other.tenant) == (item.class_name, item.tenant)
                if bound_us is not None and same_queue:
                    assert item.arrival_us - other.arrival_us <= bound_us
            self.started.append(item)
        for item, _ in changes.refused:
            assert item.state is State.FINISHED
            self.ends[item.seq] += 1

    @rule(
        dt=st.integers(0, 2 * D_US),
        quantile=st.floats(0, 1),
        class_name=st.sampled_from(CLASSES),
        tenant=st.sampled_from(TENANTS),
        ttl=st.one_of(st.none(), st.integers(1, 3 * D_US)),
    )
    def arrive(self, dt: int, quantile: float, class_name: str, tenant: str, ttl: int | None) -> None:
        self.now_us += dt
        seq = len(self.items)
        deadline_us = None if ttl is None else self.now_us + ttl
        item = QueuedRequest(
            seq, f"r{seq}", self.now_us, predicted(quantile), class_name, tenant, deadline_us=deadline_us
        )
        self.items.append(item)
        self.took(self.scheduler.submit(item, self.now_us))
        assert item.state is not State.NEW

    @precondition(lambda self: self.running_items())
    @rule(data=st.data(), actual=st.one_of(st.none(), st.integers(0, 2000)))
    def end(self, data: st.DataObject, actual: int | None) -> None:
        item = data.draw(st.sampled_from(self.running_items()))
        self.ends[item.seq] += 1
        self.took(self.scheduler.finish(item, self.now_us, actual))
        assert self.scheduler.finish(item, self.now_us) == Changes(), "a second end must change nothing"

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.items))
        if item.state is not State.FINISHED:
            self.ends[item.seq] += 1
        self.took(self.scheduler.cancel(item, self.now_us))
        assert item.state is State.FINISHED

    @rule(dt=st.integers(0, D_US), speed=st.one_of(st.none(), st.floats(1e3, 1e9)))
    def expire(self, dt: int, speed: float | None) -> None:
        self.now_us += dt
        self.took(self.scheduler.expire(self.now_us, speed))
        late = [i for i in self.waiting_items() if i.deadline_us is not None and i.deadline_us <= self.now_us]
        assert not late

    @precondition(lambda self: self.waiting_items())
    @rule(data=st.data(), quantile=st.floats(0, 1))
    def repredict(self, data: st.DataObject, quantile: float) -> None:
        item = data.draw(st.sampled_from(self.waiting_items()))
        self.took(self.scheduler.rekey(item, predicted(quantile), self.now_us))

    @rule(data=st.data(), window=st.one_of(st.none(), st.integers(0, 4)))
    def resize(self, data: st.DataObject, window: int | None) -> None:
        name = data.draw(st.sampled_from([replica.name for replica in self.scheduler.replicas]))
        self.took(self.scheduler.set_window(name, window, self.now_us))

    @rule(data=st.data(), available=st.booleans())
    def engine_comes_and_goes(self, data: st.DataObject, available: bool) -> None:
        name = data.draw(st.sampled_from([replica.name for replica in self.scheduler.replicas]))
        self.took(self.scheduler.set_available(name, available, self.now_us))

    @precondition(lambda self: self.waiting_items())
    @rule(data=st.data(), name=st.sampled_from(["engine-0", "engine-2", "gone"]))
    def bind(self, data: st.DataObject, name: str) -> None:
        data.draw(st.sampled_from(self.waiting_items())).bound_to = name

    @rule(data=st.data(), usage=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    def poll_kv(self, data: st.DataObject, usage: float) -> None:
        replica = data.draw(st.sampled_from(self.scheduler.replicas))
        replica.kv.observe(usage)
        self.took(self.scheduler.tick(self.now_us))

    @rule(policy=st.sampled_from([Fcfs(), Quantile(D_US)]))
    def switch(self, policy: Policy) -> None:
        self.took(self.scheduler.switch_policies({"fast": policy}, self.now_us))

    @rule(limits=st.sampled_from([{}, {"ann": TenantLimits(2.0, 1, 2)}, {"bob": TenantLimits(0.5, 2, 0)}]))
    def reload_limits(self, limits: dict[str, TenantLimits]) -> None:
        self.tenant_limits = limits
        self.took(self.scheduler.limit_tenants(limits, self.now_us))

    def may_run(self, item: QueuedRequest) -> bool:
        """Whether some engine and its tenant's limit would let a waiting request run."""
        most = self.tenant_limits.get(item.tenant, TenantLimits()).max_running
        if most is not None and sum(r.tenant == item.tenant for r in self.running_items()) >= most:
            return False
        tiers = {service.name: service.tier for service in self.scheduler.classes}
        tier = tiers[item.class_name]
        chosen = {t.number: t.queue.next() for t in self.scheduler.tiers if t.number <= tier}
        return any(
            r.has_room
            and all(one is None or r.bears(one) for one in chosen.values())
            and (tier == 0 or r.window is None or r.by_tier.get(tier, 0) < max(1, int(r.window * 0.5)))
            for r in self.scheduler.replicas
        )

    @invariant()
    def no_place_is_idle_while_somebody_may_run(self) -> None:
        assert not any(self.may_run(item) for item in self.waiting_items())

    @invariant()
    def those_near_the_front_are_the_first_in_order(self) -> None:
        in_order = self.scheduler.waiting_in_order()
        for count in (1, 3, len(in_order)):
            assert self.scheduler.upcoming(count) == in_order[:count]

    @invariant()
    def counts_agree(self) -> None:
        waiting = self.waiting_items()
        assert self.scheduler.waiting == len(waiting) == len(self.scheduler.waiting_in_order())
        assert self.scheduler.waiting_tokens == pytest.approx(sum(i.work_tokens for i in waiting), abs=1e-6)
        assert self.scheduler.running == len(self.running_items())
        for replica in self.scheduler.replicas:
            here = [item for item in self.running_items() if item.replica == replica.name]
            assert replica.running == len(here) == sum(replica.by_tier.values())
            held = sum(item.answers * item.prediction.tokens / 2 for item in here)
            assert replica.kv.held_tokens == pytest.approx(held, abs=1e-6)

    @invariant()
    def each_starts_once_and_ends_once(self) -> None:
        assert len({item.seq for item in self.started}) == len(self.started)
        assert all(count == 1 for count in self.ends.values())
        finished = {item.seq for item in self.items if item.state is State.FINISHED}
        assert finished == set(self.ends)

    def teardown(self) -> None:
        """Whatever happened, with room for all everybody left gets their turn."""
        if not self.items:
            return
        for replica in self.scheduler.replicas:
            self.took(self.scheduler.set_available(replica.name, True, self.now_us))
            self.took(self.scheduler.set_window(replica.name, None, self.now_us))
        while running := self.running_items():
            self.took(self.scheduler.finish(running[0], self.now_us))
            self.ends[running[0].seq] += 1
        assert not self.waiting_items()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)


@given(st.sampled_from([Quantile(D_US), Work(D_US)]), st.integers(0, 10 * D_US), st.floats(), st.floats())
def test_keys_keep_their_order_for_ever(
    policy: Policy, arrival_us: int, quantile: float, work: float
) -> None:
    """A key is arrival plus at most D whatever was predicted, so ageing needs no timer and nobody passes the bound."""
    prediction = Prediction(quantile, 10.0, 5.0, 20.0, work=work)
    assert arrival_us <= policy.key_us(arrival_us, prediction) <= arrival_us + D_US
