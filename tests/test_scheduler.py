"""The scheduler's promises, held against random histories."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from predictor.prediction import Prediction
from proxy.scheduling.backlog import QueueLimits
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.fair import TenantLimits
from proxy.scheduling.policy import Fcfs, Policy, Quantile, Sjf, Work, make_policy
from proxy.scheduling.queued import Changes, QueuedRequest, Reason, State
from proxy.scheduling.scheduler import Scheduler

D_US = 1_000
CLASSES = ("fast", "slow", "batch")
TENANTS = ("ann", "bob", "cy")


def predicted(quantile: float) -> Prediction:
    """A prediction of which only the quantile (and tokens with it) matters."""
    return Prediction(quantile, quantile * 1000, quantile * 500, 1000.0)


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


def queue(policy: Policy, lane_share: float = 0.0, **more: Any) -> Scheduler:
    """A scheduler with one class and one engine that has no room yet."""
    scheduler = Scheduler([ServiceClass("standard", policy)], lane_share=lane_share, **more)
    scheduler.add_replica("engine", 0, 0)
    return scheduler


def submit(scheduler: Scheduler, seq: int, arrival_us: int, quantile: float, **more: Any) -> QueuedRequest:
    """Let one request arrive."""
    item = QueuedRequest(seq, f"r{seq}", arrival_us, predicted(quantile), **more)
    scheduler.submit(item, arrival_us)
    return item


def order_of(scheduler: Scheduler) -> list[int]:
    """Let everybody run, and give the order of dispatch by seq."""
    return [item.seq for item in scheduler.set_window("engine", None, 0).started]


def one_more(scheduler: Scheduler) -> QueuedRequest:
    """Let exactly one more run."""
    (item,) = scheduler.set_window("engine", scheduler.running + 1, 0).started
    return item


def test_short_goes_first_within_the_bound_and_not_beyond_it() -> None:
    """A short request passes a long one that came less than D earlier, never one from before that."""
    scheduler = queue(Quantile(D_US))
    for seq, (arrival_us, quantile) in enumerate([(0, 1.0), (D_US - 1, 0.0), (D_US + 1, 0.0)]):
        submit(scheduler, seq, arrival_us, quantile)
    assert order_of(scheduler) == [1, 0, 2]


def test_sjf_orders_by_predicted_tokens_alone() -> None:
    """Under sjf arrival does not count."""
    scheduler = queue(Sjf())
    for seq, quantile in enumerate([0.9, 0.1, 0.5]):
        submit(scheduler, seq, seq * 100 * D_US, quantile)
    assert order_of(scheduler) == [1, 2, 0]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_the_lane_serves_its_share_of_the_oldest(share: float, expected: int) -> None:
    """Of twenty dispatches the share phi goes to whoever waited longest, whatever was predicted."""
    scheduler = queue(Sjf(), lane_share=share)
    for seq in range(100):
        submit(scheduler, seq, seq, 1 - seq / 100)
    assert sum(one_more(scheduler).seq < 50 for _ in range(20)) == expected


def test_a_request_keyed_anew_goes_by_its_new_key() -> None:
    """Whoever is found to be long lets the others pass: the old key counts no more."""
    scheduler = queue(Quantile(D_US))
    first, second = submit(scheduler, 0, 0, 0.0), submit(scheduler, 1, 0, 0.5)
    assert scheduler.rekey(first, predicted(1.0), 0) == Changes()
    assert scheduler.set_window("engine", 1, 0).started == [second]
    assert scheduler.finish(second, 0).started == [first]


def test_what_one_engine_keeps_is_sent_there_alone() -> None:
    """In its turn, though the others are less busy and that one is full, so that nobody waits behind it; to any
    engine once that one is gone, which will say so."""
    scheduler = queue(Fcfs())
    scheduler.add_replica("other", 4, 0)
    scheduler.set_window("engine", 1, 0)
    kept = [QueuedRequest(seq, str(seq), seq, predicted(0.5), kept_at="engine") for seq in range(3)]
    assert [scheduler.submit(item, item.seq).started for item in kept[:2]] == [[kept[0]], [kept[1]]]
    assert [item.replica for item in kept[:2]] == ["engine", "engine"]
    scheduler.set_window("engine", 0, 2)
    assert not scheduler.submit(kept[2], 2).started
    assert scheduler.set_available("engine", False, 3).started == [kept[2]]
    assert kept[2].replica == "other"


def test_unknown_policy_is_refused_by_name() -> None:
    """A misspelt policy is an error that lists the known ones."""
    with pytest.raises(ValueError, match="fcfs, quantile, work, sjf"):
        make_policy("shortest", 1.0)


def test_cancelled_crowds_leave_no_trace() -> None:
    """Ten thousand requests that came and went leave a queue as small as an empty one."""
    scheduler = queue(Quantile(D_US))
    items = [submit(scheduler, seq, seq, 0.5) for seq in range(10_000)]
    for item in items[1:]:
        scheduler.cancel(item, 0)
    (tenant,) = scheduler.tiers[0].queue
    assert scheduler.waiting == 1
    assert len(tenant.waiting._by_key) < 100
    scheduler.cancel(items[0], 0)
    assert not list(scheduler.tiers[0].queue)


def tiered(min_share: float, **more: Any) -> Scheduler:
    """Two strict tiers in front of one engine without room."""
    classes = [
        ServiceClass("standard", Quantile(D_US)),
        ServiceClass("batch", Fcfs(), tier=1, min_share=min_share, **more),
    ]
    scheduler = Scheduler(classes)
    scheduler.add_replica("engine", 0, 0)
    return scheduler


@pytest.mark.parametrize(("min_share", "batch_served"), [(0.0, 0), (0.05, 1), (0.25, 5), (0.5, 10)])
def test_a_lower_tier_gets_its_min_share_and_no_more(min_share: float, batch_served: int) -> None:
    """While the better tier is never empty, min_share of the dispatches go below, however old those are."""
    scheduler = tiered(min_share)
    for seq in range(40):
        submit(scheduler, seq, 0, 0.5, class_name="batch")
        submit(scheduler, 100 + seq, 10 * D_US, 0.9)
    served = [one_more(scheduler).class_name for _ in range(21)]
    assert served.count("batch") == batch_served


def test_a_class_waits_for_its_hours() -> None:
    """Outside of its hours a class is held, however idle the engine; when they begin it is sent."""
    scheduler = tiered(0.0, hours=((22 * 60, 6 * 60),))
    scheduler.set_window("engine", 8, 0)
    noon_us, night_us = 12 * 3600 * 10**6, 23 * 3600 * 10**6
    item = submit(scheduler, 0, noon_us, 0.5, class_name="batch")
    assert item.state is State.WAITING
    assert [item.seq for item in scheduler.tick(night_us).started] == [0]


def test_a_flood_does_not_slow_another_tenant() -> None:
    """Beside a tenant with 1,000 requests waiting, another one gets every second dispatch."""
    scheduler = queue(Quantile(D_US))
    for seq in range(1000):
        submit(scheduler, seq, 0, 0.5, tenant="flood")
    for seq in range(20):
        submit(scheduler, 2000 + seq, D_US, 0.5, tenant="small")
    served = [one_more(scheduler).tenant for _ in range(40)]
    assert abs(served.count("small") - 20) <= 1


@given(
    st.lists(st.tuples(st.sampled_from(TENANTS), st.floats(0, 1)), min_size=60, max_size=200),
    st.dictionaries(st.sampled_from(TENANTS), st.sampled_from([0.5, 1.0, 2.0]), min_size=3),
)
def test_backlogged_tenants_are_served_alike(
    requests: list[tuple[str, float]], weights: dict[str, float]
) -> None:
    """Between two tenants that both still wait, served tokens over weight differ by at most two charges."""
    limits = {name: TenantLimits(weight) for name, weight in weights.items()}
    scheduler = queue(Quantile(D_US), tenants=limits)
    for seq, (tenant, quantile) in enumerate(requests):
        submit(scheduler, seq, seq, quantile, tenant=tenant)
    served = dict.fromkeys(TENANTS, 0.0)
    largest = max(
        (item.work_tokens / weights[item.tenant] for item in scheduler.waiting_in_order()), default=0.0
    )
    for _ in range(len(requests)):
        item = one_more(scheduler)
        served[item.tenant] += item.work_tokens / weights[item.tenant]
        backlogged = {waiting.tenant for waiting in scheduler.waiting_in_order()}
        shares = [served[name] for name in backlogged]
        assert not shares or max(shares) - min(shares) <= 2 * largest + 1e-6


def test_charges_are_corrected_by_what_was_really_computed() -> None:
    """A tenant whose answers turn out ten times longer than predicted pays for them."""
    scheduler = queue(Fcfs())
    for seq in range(200):
        submit(scheduler, seq, seq, 0.1, tenant="ann" if seq % 2 else "bob")
    served: Counter[str] = Counter()
    for _ in range(60):
        item = one_more(scheduler)
        actual = item.work_tokens * (10 if item.tenant == "ann" else 1)
        served[item.tenant] += round(actual)
        scheduler.set_window("engine", 0, 0)
        scheduler.finish(item, 0, actual)
    assert served["ann"] == pytest.approx(served["bob"], rel=0.1, abs=2100)


def test_a_tenant_keeps_to_its_own_limits() -> None:
    """max_running holds a tenant back while others run on; beyond max_waiting it alone is refused."""
    scheduler = queue(Fcfs(), tenants={"ann": TenantLimits(1.0, max_running=2, max_waiting=3)})
    changes = [
        scheduler.submit(QueuedRequest(seq, str(seq), seq, predicted(0.5), tenant="ann"), seq)
        for seq in range(4)
    ]
    assert [reason for change in changes for _, reason in change.refused] == [Reason.TENANT_FULL]
    submit(scheduler, 9, 9, 0.5, tenant="bob")
    assert order_of(scheduler) == [0, 9, 1]


def test_a_full_queue_refuses_the_newcomer_or_the_worst() -> None:
    """At its limit the queue refuses whoever comes; told to shed, it refuses the worst key of the lowest tier."""
    for shed_worst, refused in ((False, 2), (True, 1)):
        scheduler = queue(Quantile(D_US), limits=QueueLimits(max_waiting=2, shed_worst=shed_worst))
        submit(scheduler, 0, 0, 0.2)
        submit(scheduler, 1, 0, 0.9)
        changes = scheduler.submit(QueuedRequest(2, "r2", 1, predicted(0.1)), 1)
        assert [(item.seq, reason) for item, reason in changes.refused] == [(refused, Reason.QUEUE_FULL)]
        assert scheduler.waiting == 2


def test_bytes_and_predicted_work_bound_the_queue_too() -> None:
    """Few but huge requests are refused like many small ones; a lone huge one may wait."""
    for limits in (QueueLimits(max_bytes=100), QueueLimits(max_tokens=100.0)):
        scheduler = queue(Fcfs(), limits=limits)
        assert not scheduler.submit(QueuedRequest(0, "a", 0, predicted(0.09), body_bytes=90), 0).refused
        assert scheduler.submit(QueuedRequest(1, "b", 0, predicted(0.09), body_bytes=90), 0).refused


def test_a_hopeless_request_is_refused_before_its_deadline() -> None:
    """When even the shortest answers ahead take too long, waiting on is pointless and refused at once."""
    scheduler = queue(Fcfs())
    for seq in range(10):
        submit(scheduler, seq, seq, 1.0)
    hopeful = submit(scheduler, 10, 10, 0.0, deadline_us=60 * 10**6)
    hopeless = submit(scheduler, 11, 11, 0.0, deadline_us=40 * 10**6)
    changes = scheduler.expire(12, tokens_per_s=100.0)
    assert [(item.seq, reason) for item, reason in changes.refused] == [(hopeless.seq, Reason.EXPIRED)]
    assert hopeful.state is State.WAITING


def test_contradicting_classes_are_refused() -> None:
    """Classes of one tier must agree, names must differ, and an unbounded policy stands alone."""
    for classes in (
        [ServiceClass("a", Fcfs()), ServiceClass("a", Fcfs(), tier=1)],
        [ServiceClass("a", Fcfs()), ServiceClass("b", Fcfs(), min_share=0.1)],
        [ServiceClass("a", Fcfs()), ServiceClass("b", Sjf())],
    ):
        with pytest.raises(ValueError, match=r"class|tier"):
            Scheduler(classes)
