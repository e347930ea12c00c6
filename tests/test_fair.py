"""Fair queueing between tenants: each gets its share, nobody saves up idle time, nothing is kept for ever."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling import D_US, TENANTS, one_engine, one_more, submit

from predictor.prediction import Prediction
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.fair import FairQueue, TenantLimits
from proxy.scheduling.policy import Fcfs, Quantile
from proxy.scheduling.queued import QueuedRequest, State
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


def test_a_flood_does_not_slow_another_tenant() -> None:
    """Beside a tenant with 1,000 requests waiting, another one gets every second dispatch."""
    scheduler = one_engine(Quantile(D_US))
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
    scheduler = one_engine(Quantile(D_US), tenants=limits)
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
    scheduler = one_engine(Fcfs())
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
