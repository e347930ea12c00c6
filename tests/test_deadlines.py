"""Deadlines: nobody is kept in mind who has left, and nobody is given up who could still be sent in time."""

from typing import Any

import pytest
from scheduling import one_engine, submit

from predictor.prediction import Prediction
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.deadlines import Deadlines
from proxy.scheduling.policy import Fcfs
from proxy.scheduling.queued import QueuedRequest, Reason, State
from proxy.scheduling.scheduler import Scheduler

SECOND_US = 1_000_000


def asked(seq: int, tokens: float, ttl_s: float | None = None, **more: Any) -> QueuedRequest:
    """A request of exactly so many tokens, at time 0."""
    deadline_us = None if ttl_s is None else round(ttl_s * SECOND_US)
    return QueuedRequest(
        seq, f"r{seq}", 0, Prediction(0.5, tokens, tokens, tokens), deadline_us=deadline_us, **more
    )


def refused(scheduler: Scheduler, tokens_per_s: float) -> list[int]:
    """Who is given up just after the start."""
    found = scheduler.expire(1, tokens_per_s).refused
    assert all(reason is Reason.EXPIRED for _, reason in found)
    return [item.seq for item, _ in found]


def test_long_deadlines_of_those_who_have_left_are_forgotten() -> None:
    """A day's TTL does not keep a request in memory for a day: who has been sent is dropped."""
    deadlines = Deadlines()
    for seq in range(5_000):
        item = asked(seq, 10, ttl_s=86_400)
        item.state = State.WAITING
        deadlines.add(item)
        item.state = State.RUNNING
    assert len(deadlines._heap) < 200
    assert deadlines.next_us() is None


@pytest.mark.parametrize(("slots", "given_up"), [(1, [3, 4, 5]), (3, [5]), (4, [])])
def test_who_is_ahead_need_not_have_ended_but_begun(slots: int, given_up: list[int]) -> None:
    """With n slots a request is sent while n - 1 of those ahead are still computed: only the others take time."""
    scheduler = Scheduler([ServiceClass("standard", Fcfs())])
    scheduler.add_replica("engine", slots, 0)
    for seq in range(slots):
        scheduler.submit(asked(100 + seq, 100), 0)
    for seq in range(6):
        scheduler.submit(asked(seq, 100, ttl_s=2.5), 0)
    assert refused(scheduler, tokens_per_s=100.0) == given_up


def test_a_better_class_outside_of_its_hours_is_not_in_the_way() -> None:
    """What is held until the evening delays nobody now."""
    night = ServiceClass("night", Fcfs(), hours=((22 * 60, 23 * 60),))
    scheduler = Scheduler([night, ServiceClass("day", Fcfs(), tier=1)])
    scheduler.add_replica("engine", 1, 0)
    scheduler.submit(asked(100, 100, class_name="day"), 0)
    for seq in range(10):
        scheduler.submit(asked(seq, 100, class_name="night"), 0)
    scheduler.submit(asked(10, 100, ttl_s=5.0, class_name="day"), 0)
    assert refused(scheduler, tokens_per_s=100.0) == []


@pytest.mark.parametrize(("min_share", "given_up"), [(0.0, [10]), (0.5, [])])
def test_a_tier_with_a_share_of_its_own_need_not_wait_for_the_better_ones(
    min_share: float, given_up: list[int]
) -> None:
    """All of the better tiers is ahead of a strict one; of one with min_share only its own."""
    scheduler = Scheduler(
        [ServiceClass("fast", Fcfs()), ServiceClass("batch", Fcfs(), tier=1, min_share=min_share)]
    )
    scheduler.add_replica("engine", 1, 0)
    scheduler.submit(asked(100, 100, class_name="fast"), 0)
    for seq in range(10):
        scheduler.submit(asked(seq, 100, class_name="fast"), 0)
    scheduler.submit(asked(10, 100, ttl_s=5.0, class_name="batch"), 0)
    assert refused(scheduler, tokens_per_s=100.0) == given_up


def test_where_the_lane_may_fetch_somebody_he_is_not_given_up() -> None:
    """The oldest is next in the lane, whatever its key: only who is both older and better is surely ahead."""
    scheduler = Scheduler([ServiceClass("standard", Fcfs())], lane_share=0.2)
    scheduler.add_replica("engine", 1, 0)
    scheduler.submit(asked(100, 100), 0)
    oldest = asked(0, 1000, ttl_s=5.0)
    oldest.arrival_us = 10
    scheduler.submit(oldest, 10)
    for seq in range(1, 11):
        scheduler.submit(asked(seq, 100, ttl_s=5.0), 10)
    assert [item.seq for item in scheduler.waiting_in_order()][-1] == 0
    assert refused(scheduler, tokens_per_s=100.0) == [6, 7, 8, 9, 10]


def test_a_hopeless_request_is_refused_before_its_deadline() -> None:
    """When even the shortest answers ahead take too long, waiting on is pointless and refused at once."""
    scheduler = one_engine(Fcfs())
    for seq in range(10):
        submit(scheduler, seq, seq, 1.0)
    hopeful = submit(scheduler, 10, 10, 0.0, deadline_us=60 * 10**6)
    hopeless = submit(scheduler, 11, 11, 0.0, deadline_us=40 * 10**6)
    changes = scheduler.expire(12, tokens_per_s=100.0)
    assert [(item.seq, reason) for item, reason in changes.refused] == [(hopeless.seq, Reason.EXPIRED)]
    assert hopeful.state is State.WAITING
