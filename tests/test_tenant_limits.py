"""A tenant's own limits hold over all classes, also while they are changed, and for nobody else."""

from typing import Any

from scheduling import one_engine, order_of, predicted

from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.fair import TenantLimits
from proxy.scheduling.policy import Fcfs
from proxy.scheduling.queued import Changes, QueuedRequest, Reason, State
from proxy.scheduling.scheduler import Scheduler


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
    item = QueuedRequest(seq, f"r{seq}", seq, predicted(0.1), class_name, "ann")
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


def test_a_tenant_keeps_to_its_own_limits() -> None:
    """max_running holds a tenant back while others run on; beyond max_waiting it alone is refused."""
    scheduler = one_engine(Fcfs(), tenants={"ann": TenantLimits(1.0, max_running=2, max_waiting=3)})
    changes = [
        scheduler.submit(QueuedRequest(seq, str(seq), seq, predicted(0.5), tenant="ann"), seq)
        for seq in range(4)
    ]
    assert [reason for change in changes for _, reason in change.refused] == [Reason.TENANT_FULL]
    scheduler.submit(QueuedRequest(9, "9", 9, predicted(0.5), tenant="bob"), 9)
    assert order_of(scheduler) == [0, 9, 1]


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
