"""The queue's limits hold whoever goes for whom, and finding the worst waiter costs no look at all of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling import D_US, one_engine, predicted, submit

from proxy.scheduling.backlog import QueueLimits
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.policy import Fcfs, Quantile
from proxy.scheduling.queued import Changes, QueuedRequest, Reason, State
from proxy.scheduling.scheduler import Scheduler


def asked(seq: int, quantile: float, **more: Any) -> QueuedRequest:
    return QueuedRequest(seq, f"r{seq}", 0, predicted(quantile), **more)


def full(**limits: Any) -> Scheduler:
    """A queue before an engine without room that lets the worst one go."""
    classes = [ServiceClass("standard", Quantile(D_US)), ServiceClass("batch", Fcfs(), tier=1)]
    scheduler = Scheduler(classes, limits=QueueLimits(shed_worst=True, **limits))
    scheduler.add_replica("engine", 0, 0)
    return scheduler


def refused(changes: Changes) -> list[int]:
    assert all(reason is Reason.QUEUE_FULL for _, reason in changes.refused)
    return [item.seq for item, _ in changes.refused]


def test_as_many_go_as_a_large_newcomer_needs() -> None:
    """One small waiter gone does not make room for a large body: bytes stay bounded while the worst are shed."""
    scheduler = full(max_bytes=1_000)
    for seq in range(10):
        scheduler.submit(asked(seq, 0.5 + seq / 100, body_bytes=100), 0)
    assert refused(scheduler.submit(asked(20, 0.1, body_bytes=350), 0)) == [9, 8, 7, 6]
    assert scheduler.waiting_bytes == 950


def test_nobody_goes_in_vain() -> None:
    """Where not even all who are worse would make room, the newcomer is refused and nobody else."""
    scheduler = full(max_bytes=1_000)
    for seq in range(10):
        scheduler.submit(asked(seq, 0.5 + seq / 100, body_bytes=100), 0)
    assert refused(scheduler.submit(asked(20, 0.555, body_bytes=500), 0)) == [20]
    assert refused(scheduler.submit(asked(21, 0.0, body_bytes=1_001), 0)) == [21]
    assert refused(scheduler.submit(asked(22, 0.0, body_bytes=100), 0)) == [9]


def test_a_newcomer_that_is_the_worst_is_refused() -> None:
    """It is the worst of all who goes, so a worse newcomer does; and the lowest tier goes first, whatever its key."""
    scheduler = full(max_waiting=2)
    batch = asked(0, 0.0)
    batch.class_name = "batch"
    scheduler.submit(batch, 0)
    scheduler.submit(asked(1, 0.9), 0)
    assert refused(scheduler.submit(asked(2, 1.0), 0)) == [0]
    assert refused(scheduler.submit(asked(3, 1.0), 0)) == [3]
    assert refused(scheduler.submit(asked(4, 0.5), 0)) == [2]


def test_who_was_keyed_anew_is_judged_by_the_new_key() -> None:
    """Whoever turned out to be short is not shed as the long one that he was taken for."""
    scheduler = full(max_waiting=2)
    first = asked(0, 0.9)
    scheduler.submit(first, 0)
    scheduler.submit(asked(1, 0.5), 0)
    scheduler.rekey(first, predicted(0.1), 0)
    assert refused(scheduler.submit(asked(2, 0.3), 0)) == [1]


@given(st.lists(st.tuples(st.sampled_from("acrs"), st.floats(0, 1), st.integers(0, 60)), max_size=60))
def test_whoever_is_shed_was_the_worst(events: list[tuple[str, float, int]]) -> None:
    """After any arrivals, cancels, new predictions and switches: victims are the last in order, limits hold."""
    scheduler = full(max_waiting=6, max_bytes=200, max_tokens=3_000.0)
    items: list[QueuedRequest] = []
    for event, quantile, size in events:
        waiting = scheduler.waiting_in_order()
        if event == "c" and waiting:
            scheduler.cancel(waiting[size % len(waiting)], 0)
        elif event == "r" and waiting:
            changed = waiting[size % len(waiting)]
            scheduler.rekey(changed, predicted(quantile), 0)
        elif event == "s":
            scheduler.switch_policies({"standard": Fcfs() if size % 2 else Quantile(D_US)}, 0)
        elif event == "a":
            items.append(asked(len(items), quantile, body_bytes=size))
            gone = scheduler.submit(items[-1], 0).refused
            if items[-1].state is State.WAITING:
                assert [item for item, _ in gone] == waiting[len(waiting) - len(gone) :][::-1]
        waits = [item for item in items if item.state is State.WAITING]
        assert len(waits) == scheduler.waiting <= 6
        assert sum(item.body_bytes for item in waits) == scheduler.waiting_bytes <= 200
        assert sum(item.work_tokens for item in waits) == pytest.approx(scheduler.waiting_tokens, abs=1e-6)


def test_shedding_keeps_nobody_in_mind_who_has_left() -> None:
    """However many pass, the record of the worst is no larger than twice what waits."""
    scheduler = full(max_waiting=10)
    for seq in range(3_000):
        item = asked(seq, (seq * 7919 % 1000) / 1000)
        scheduler.submit(item, 0)
        if seq % 3 == 0 and item.state is State.WAITING:
            scheduler.cancel(item, 0)
    assert len(scheduler._backlog._worst) < 200


def test_a_full_queue_refuses_the_newcomer_or_the_worst() -> None:
    """At its limit the queue refuses whoever comes; told to shed, it refuses the worst key of the lowest tier."""
    for shed_worst, refused in ((False, 2), (True, 1)):
        scheduler = one_engine(Quantile(D_US), limits=QueueLimits(max_waiting=2, shed_worst=shed_worst))
        submit(scheduler, 0, 0, 0.2)
        submit(scheduler, 1, 0, 0.9)
        changes = scheduler.submit(asked(2, 0.1), 1)
        assert [(item.seq, reason) for item, reason in changes.refused] == [(refused, Reason.QUEUE_FULL)]
        assert scheduler.waiting == 2


def test_bytes_and_predicted_work_bound_the_queue_too() -> None:
    """Few but huge requests are refused like many small ones; a lone huge one may wait."""
    for limits in (QueueLimits(max_bytes=100), QueueLimits(max_tokens=100.0)):
        scheduler = one_engine(Fcfs(), limits=limits)
        assert not scheduler.submit(asked(0, 0.09, body_bytes=90), 0).refused
        assert scheduler.submit(asked(1, 0.09, body_bytes=90), 0).refused
