"""Fair queueing between tenants: nobody saves up idle time, limits hold over all classes, nothing is kept for ever."""

from typing import Any

import pytest

from predictor.prediction import Prediction
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.fair import FairQueue, TenantLimits
from proxy.scheduling.policy import Fcfs
from proxy.scheduling.queued import Changes, QueuedRequest, Reason, State
from proxy.scheduling.scheduler import Scheduler

TOKENS = 100.0
REMEMBERED = 10_000


def asked(seq: int, tenant: str, **more: Any) -> QueuedRequest:
    """A request of 100 tokens."""
    return QueuedRequest(
        seq, f"r{seq}", seq, Prediction(0.5, TOKENS, TOKENS, TOKENS), tenant=tenant, key_us=seq, **more
    )


def served(queue: FairQueue, count: int) -> list[str]:
    """Send so many and let each end before the next; whose they were."""
    names = []
    for _ in range(count):
        item = queue.next()
        assert item is not None
        queue.send(item)
        queue.finish(item, TOKENS)
        names.append(item.tenant)
    return names


@pytest.mark.parametrize("away_since", ["the beginning", "its first request"])
def test_nobody_saves_up_idle_time(away_since: str) -> None:
    """Who comes (back) after others were served 50 requests shares evenly from then on, and does not catch up."""
    queue = FairQueue({}, 0.0)
    if away_since == "its first request":
        queue.add(asked(1_000, "late"))
        served(queue, 1)
    for seq in range(100):
        queue.add(asked(seq, "steady"))
    served(queue, 50)
    for seq in range(2_000, 2_050):
        queue.add(asked(seq, "late"))
    names = served(queue, 20)
    assert abs(names.count("late") - 10) <= 1


def test_idle_time_is_not_saved_up_where_nobody_waits_either() -> None:
    """A busy tenant whose queue is empty for a moment is not behind somebody who comes just then."""
    queue = FairQueue({}, 0.0)
    for seq in range(50):
        queue.add(asked(seq, "steady"))
    served(queue, 50)
    for seq in range(100, 120):
        queue.add(asked(seq, "late"))
        queue.add(asked(seq + 100, "steady"))
    names = served(queue, 20)
    assert abs(names.count("late") - 10) <= 1


def test_a_debt_is_not_forgiven_by_a_pause() -> None:
    """Whose answers cost ten times what was charged stands back for that after its queue was empty."""
    queue = FairQueue({}, 0.0)
    for seq in range(10):
        queue.add(asked(seq, "other"))
    first = asked(100, "dear")
    queue.add(first)
    sent = [item for _ in range(2) if (item := queue.next()) is not None and queue.send(item) is None]
    for item in sent:
        queue.finish(item, TOKENS * (10 if item.tenant == "dear" else 1))
    for seq in range(200, 210):
        queue.add(asked(seq, "dear"))
    assert served(queue, 8).count("dear") == 0


def test_tenants_who_were_never_served_leave_no_trace() -> None:
    """Names that came and went without being sent, however many, are not kept."""
    queue = FairQueue({}, 0.0)
    for seq in range(3_000):
        item = asked(seq, f"tenant-{seq}")
        queue.add(item)
        queue.remove(item, State.FINISHED)
    assert len(list(queue)) == 0


def test_of_very_many_tenants_the_greatest_debts_are_remembered() -> None:
    """Accounts are bounded; who owes most is the last to be forgotten."""
    queue = FairQueue({}, 0.0)
    for seq in range(3 * REMEMBERED):
        item = asked(seq, f"tenant-{seq}")
        queue.add(item)
        queue.send(item)
        queue.finish(item, TOKENS * (50 if seq == 5 else 1))
    names = {tenant.name for tenant in queue}
    assert len(names) <= 2 * REMEMBERED
    assert "tenant-5" in names


def test_a_waiting_tenant_is_never_forgotten() -> None:
    """However many others come and go, who waits is served."""
    queue = FairQueue({"held": TenantLimits(max_running=1)}, 0.0)
    for seq in (0, 1):
        queue.add(asked(seq, "held"))
    running = queue.next()
    assert running is not None
    queue.send(running)
    for seq in range(10, 10 + 3 * REMEMBERED):
        item = asked(seq, f"tenant-{seq}")
        queue.add(item)
        queue.send(item)
        queue.finish(item, TOKENS)
    queue.finish(running, TOKENS)
    assert served(queue, 1) == ["held"]


def two_tiers(**limits: Any) -> Scheduler:
    """A strict class above another, one engine of ten places, and a tenant with limits."""
    scheduler = Scheduler(
        [ServiceClass("fast", Fcfs()), ServiceClass("batch", Fcfs(), tier=1)],
        tenants={"ann": TenantLimits(**limits)},
    )
    scheduler.add_replica("engine", 10, 0)
    return scheduler


def submit(scheduler: Scheduler, seq: int, class_name: str) -> tuple[QueuedRequest, Changes]:
    """Let one request of the limited tenant come."""
    item = asked(seq, "ann", class_name=class_name)
    return item, scheduler.submit(item, 0)


def test_max_running_holds_over_all_classes() -> None:
    """A limit of two is two at the engines, in whatever classes; an end in one class lets another one go."""
    scheduler = two_tiers(max_running=2)
    items = [submit(scheduler, seq, "batch" if seq % 2 else "fast")[0] for seq in range(6)]
    assert [item.seq for item in items if item.state is State.RUNNING] == [0, 1]
    assert [item.seq for item in scheduler.finish(items[1], 0).started] == [2]
    assert [item.seq for item in scheduler.finish(items[0], 0).started] == [4]
    scheduler.cancel(items[2], 0)
    assert [item.seq for item in scheduler.finish(items[4], 0).started] == [5]
    assert [item.state for item in items if item.seq in (3, 5)] == [State.RUNNING, State.RUNNING]


def test_max_waiting_holds_over_all_classes() -> None:
    """A limit of three waiting is three in all; who leaves makes room for another."""
    scheduler = two_tiers(max_waiting=3)
    scheduler.set_window("engine", 0, 0)
    items = [submit(scheduler, seq, "batch" if seq % 2 else "fast")[0] for seq in range(3)]
    assert submit(scheduler, 3, "batch")[1].refused[0][1] is Reason.TENANT_FULL
    assert submit(scheduler, 4, "fast")[1].refused[0][1] is Reason.TENANT_FULL
    scheduler.cancel(items[0], 0)
    assert not submit(scheduler, 5, "batch")[1].refused


def test_a_tenant_that_may_not_wait_is_served_where_there_is_room() -> None:
    """With max_waiting 0 a request that can be sent at once is sent, again and again; another one is refused."""
    scheduler = two_tiers(max_waiting=0)
    for seq in range(3):
        item, _ = submit(scheduler, seq, "fast")
        assert item.state is State.RUNNING
        scheduler.finish(item, 0)
    scheduler.set_window("engine", 0, 0)
    assert submit(scheduler, 9, "fast")[1].refused[0][1] is Reason.TENANT_FULL
    assert scheduler.waiting == 0


def test_an_answer_that_cost_nothing_takes_nobody_out_of_the_order() -> None:
    """A charge given back in full brings a tenant to where it was, and it is served on."""
    queue = FairQueue({"ann": TenantLimits(max_running=1)}, 0.0)
    for seq in range(2):
        queue.add(asked(seq, "ann"))
    first = queue.next()
    assert first is not None
    queue.send(first)
    assert queue.next() is None
    queue.finish(first, 0.0)
    assert served(queue, 1) == ["ann"]


def test_the_order_of_tenants_takes_no_memory_of_its_own() -> None:
    """Ends of one class again and again, while another waits in vain, leave nothing behind."""
    scheduler = two_tiers(max_running=1)
    scheduler.set_window("engine", 1, 0)
    running, _ = submit(scheduler, 0, "fast")
    submit(scheduler, 1, "batch")
    for seq in range(2, 2_000):
        following, _ = submit(scheduler, seq, "fast")
        assert scheduler.finish(running, 0).started == [following]
        running = following
    assert all(len(tier.queue._by_counter) < 10 for tier in scheduler.tiers)


def test_other_limits_hold_at_once_for_those_who_are_here() -> None:
    """A limit that is raised, lowered or lifted counts what already waits and runs, in all classes."""
    scheduler = two_tiers(max_running=1)
    items = [submit(scheduler, seq, "batch" if seq % 2 else "fast")[0] for seq in range(6)]
    raised = scheduler.limit_tenants({"ann": TenantLimits(max_running=3)}, 0)
    assert [item.seq for item in raised.started] == [2, 4]
    assert not scheduler.limit_tenants({"ann": TenantLimits(max_running=2, max_waiting=3)}, 0).started
    assert submit(scheduler, 6, "fast")[1].refused[0][1] is Reason.TENANT_FULL
    assert not scheduler.finish(items[0], 0).started
    assert [item.seq for item in scheduler.finish(items[2], 0).started] == [1]
    assert [item.seq for item in scheduler.limit_tenants({}, 0).started] == [3, 5]


def test_another_weight_counts_from_now_on() -> None:
    """Twice the weight is twice the share of what is sent after the change."""
    scheduler = Scheduler([ServiceClass("standard", Fcfs())])
    scheduler.add_replica("engine", 0, 0)
    for seq in range(400):
        scheduler.submit(asked(seq, "ann" if seq % 2 else "bob"), 0)

    def send(count: int) -> int:
        """How many of ann's are among the next so many."""
        sent = scheduler.set_window("engine", scheduler.running + count, 0).started
        return sum(item.tenant == "ann" for item in sent)

    assert abs(send(40) - 20) <= 1
    scheduler.limit_tenants({"ann": TenantLimits(weight=3.0)}, 0)
    assert abs(send(40) - 30) <= 1
