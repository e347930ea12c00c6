"""The scheduler's promises, held against random histories."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from predictor.prediction import Prediction
from proxy.scheduling.policy import Fcfs, Policy, Quantile, Sjf, make_policy
from proxy.scheduling.queued import QueuedRequest, State
from proxy.scheduling.scheduler import Scheduler

D_US = 1_000


def predicted(quantile: float) -> Prediction:
    """A prediction of which only the quantile (and tokens with it) matters."""
    return Prediction(quantile, quantile * 1000, 0.0, 1000.0)


class SchedulerMachine(RuleBasedStateMachine):
    """Random arrivals, ends, cancels, re-predictions, window changes and engine losses at random times."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 0
        self.items: list[QueuedRequest] = []
        self.started: list[QueuedRequest] = []
        self.ends: Counter[int] = Counter()

    @initialize(
        policy=st.sampled_from([Fcfs(), Quantile(D_US), Quantile(0), Sjf()]),
        lane=st.sampled_from([0.0, 0.3, 1.0]),
        windows=st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=3),
    )
    def begin(self, policy: Policy, lane: float, windows: list[int | None]) -> None:
        self.scheduler = Scheduler(policy, lane_share=lane)
        for number, window in enumerate(windows):
            self.took(self.scheduler.add_replica(f"engine-{number}", window, self.now_us))

    def waiting_items(self) -> list[QueuedRequest]:
        return [item for item in self.items if item.state is State.WAITING]

    def running_items(self) -> list[QueuedRequest]:
        return [item for item in self.items if item.state is State.RUNNING]

    def took(self, started: list[QueuedRequest]) -> None:
        """Check promise 2 at every dispatch, in its exact words, against everybody who still waits."""
        bound_us = self.scheduler.policy.overtake_bound_us
        left_behind = self.waiting_items()
        for place, item in enumerate(started):
            passed = left_behind + started[place + 1 :]
            if bound_us is not None:
                assert all(item.arrival_us - other.arrival_us <= bound_us for other in passed)
            self.started.append(item)

    @rule(dt=st.integers(0, 2 * D_US), quantile=st.floats(0, 1))
    def arrive(self, dt: int, quantile: float) -> None:
        self.now_us += dt
        seq = len(self.items)
        item = QueuedRequest(seq, f"r{seq}", self.now_us, predicted(quantile))
        self.items.append(item)
        self.took(self.scheduler.submit(item, self.now_us))

    @precondition(lambda self: self.running_items())
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.running_items()))
        self.ends[item.seq] += 1
        self.took(self.scheduler.finish(item, self.now_us))
        assert self.scheduler.finish(item, self.now_us) == [], "an end that comes twice must change nothing"

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.items))
        if item.state is not State.FINISHED:
            self.ends[item.seq] += 1
        self.took(self.scheduler.cancel(item, self.now_us))
        assert item.state is State.FINISHED

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

    @rule(policy=st.sampled_from([Fcfs(), Quantile(D_US)]))
    def switch(self, policy: Policy) -> None:
        self.took(self.scheduler.switch_policy(policy, self.now_us))

    @invariant()
    def no_place_is_idle_while_somebody_waits(self) -> None:
        if self.waiting_items():
            assert not any(replica.has_room for replica in self.scheduler.replicas)

    @invariant()
    def counts_agree(self) -> None:
        assert self.scheduler.waiting == len(self.waiting_items())
        assert self.scheduler.running == len(self.running_items())
        for replica in self.scheduler.replicas:
            here = [item for item in self.running_items() if item.replica == replica.name]
            assert replica.running == len(here)

    @invariant()
    def each_starts_once_and_ends_once(self) -> None:
        assert len({item.seq for item in self.started}) == len(self.started)
        assert all(count == 1 for count in self.ends.values())

    def teardown(self) -> None:
        """Whatever happened, with room for all everybody left gets their turn."""
        for replica in self.scheduler.replicas if self.items else ():
            self.took(self.scheduler.set_available(replica.name, True, self.now_us))
            self.took(self.scheduler.set_window(replica.name, None, self.now_us))
        assert not self.waiting_items()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 10 * D_US), st.floats(0, 1)), min_size=2, max_size=20))
def test_keys_keep_their_order_for_ever(requests: list[tuple[int, float]]) -> None:
    """A key is arrival plus at most D, so ageing needs no timer and re-keying moves nobody past the bound."""
    policy = Quantile(D_US)
    for arrival_us, quantile in requests:
        key = policy.key_us(arrival_us, predicted(quantile))
        assert arrival_us <= key <= arrival_us + D_US


def queue(policy: Policy, lane_share: float = 0.0) -> Scheduler:
    """A scheduler with one engine that has no room yet."""
    scheduler = Scheduler(policy, lane_share=lane_share)
    scheduler.add_replica("engine", 0, 0)
    return scheduler


def order_of(scheduler: Scheduler) -> list[int]:
    """Let everybody run, and give the order of dispatch by seq."""
    return [item.seq for item in scheduler.set_window("engine", None, 0)]


def test_short_goes_first_within_the_bound_and_not_beyond_it() -> None:
    """A short request passes a long one that came less than D earlier, never one from before that."""
    scheduler = queue(Quantile(D_US))
    for seq, (arrival_us, quantile) in enumerate([(0, 1.0), (D_US - 1, 0.0), (D_US + 1, 0.0)]):
        scheduler.submit(QueuedRequest(seq, str(seq), arrival_us, predicted(quantile)), arrival_us)
    assert order_of(scheduler) == [1, 0, 2]


def test_sjf_orders_by_predicted_tokens_alone() -> None:
    """Under sjf arrival does not count."""
    scheduler = queue(Sjf())
    for seq, quantile in enumerate([0.9, 0.1, 0.5]):
        scheduler.submit(QueuedRequest(seq, str(seq), seq * 100 * D_US, predicted(quantile)), 0)
    assert order_of(scheduler) == [1, 2, 0]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_the_lane_serves_its_share_of_the_oldest(share: float, expected: int) -> None:
    """Of twenty dispatches the share phi goes to whoever waited longest, whatever was predicted."""
    scheduler = queue(Sjf(), lane_share=share)
    for seq in range(100):
        scheduler.submit(QueuedRequest(seq, str(seq), seq, predicted(1 - seq / 100)), seq)
    first_twenty = []
    for _ in range(20):
        (item,) = scheduler.set_window("engine", scheduler.running + 1, 0)
        first_twenty.append(item.seq)
    assert sum(seq < 50 for seq in first_twenty) == expected


def test_unknown_policy_is_refused_by_name() -> None:
    """A misspelt policy is an error that lists the known ones."""
    with pytest.raises(ValueError, match="fcfs, quantile, sjf"):
        make_policy("shortest", 1.0)


def test_cancelled_crowds_leave_no_trace() -> None:
    """Ten thousand requests that came and went leave a queue as small as an empty one."""
    scheduler = queue(Quantile(D_US))
    items = [QueuedRequest(seq, str(seq), seq, predicted(0.5)) for seq in range(10_000)]
    for item in items:
        scheduler.submit(item, item.arrival_us)
    for item in items:
        scheduler.cancel(item, 0)
    assert scheduler.waiting == 0
    assert "0 waiting" in repr(scheduler._waiting)
    assert len(scheduler._waiting._by_key) < 100
