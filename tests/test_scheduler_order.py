"""Whose turn it is: bound, lane and tiers, case by case; contradicting orders are refused."""

from typing import Any

import pytest
from scheduling import D_US, one_engine, one_more, order_of, predicted, submit

from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.policy import Fcfs, Quantile, Sjf, make_policy
from proxy.scheduling.queued import Changes, State
from proxy.scheduling.scheduler import Scheduler


def test_short_goes_first_within_the_bound_and_not_beyond_it() -> None:
    """A short request passes a long one that came less than D earlier, never one from before that."""
    scheduler = one_engine(Quantile(D_US))
    for seq, (arrival_us, quantile) in enumerate([(0, 1.0), (D_US - 1, 0.0), (D_US + 1, 0.0)]):
        submit(scheduler, seq, arrival_us, quantile)
    assert order_of(scheduler) == [1, 0, 2]


def test_sjf_orders_by_predicted_tokens_alone() -> None:
    """Under sjf arrival does not count."""
    scheduler = one_engine(Sjf())
    for seq, quantile in enumerate([0.9, 0.1, 0.5]):
        submit(scheduler, seq, seq * 100 * D_US, quantile)
    assert order_of(scheduler) == [1, 2, 0]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_the_lane_serves_its_share_of_the_oldest(share: float, expected: int) -> None:
    """Of twenty dispatches the share phi goes to whoever waited longest, whatever was predicted."""
    scheduler = one_engine(Sjf(), lane_share=share)
    for seq in range(100):
        submit(scheduler, seq, seq, 1 - seq / 100)
    assert sum(one_more(scheduler).seq < 50 for _ in range(20)) == expected


def test_a_request_keyed_anew_goes_by_its_new_key() -> None:
    """Whoever is found to be long lets the others pass: the old key counts no more."""
    scheduler = one_engine(Quantile(D_US))
    first, second = submit(scheduler, 0, 0, 0.0), submit(scheduler, 1, 0, 0.5)
    assert scheduler.rekey(first, predicted(1.0), 0) == Changes()
    assert scheduler.set_window("engine", 1, 0).started == [second]
    assert scheduler.finish(second, 0).started == [first]


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


def test_unknown_policy_is_refused_by_name() -> None:
    """A misspelt policy is an error that lists the known ones."""
    with pytest.raises(ValueError, match="fcfs, quantile, work, sjf"):
        make_policy("shortest", 1.0)


def test_contradicting_classes_are_refused() -> None:
    """Classes of one tier must agree, names must differ, and an unbounded policy stands alone."""
    for classes in (
        [ServiceClass("a", Fcfs()), ServiceClass("a", Fcfs(), tier=1)],
        [ServiceClass("a", Fcfs()), ServiceClass("b", Fcfs(), min_share=0.1)],
        [ServiceClass("a", Fcfs()), ServiceClass("b", Sjf())],
    ):
        with pytest.raises(ValueError, match=r"class|tier"):
            Scheduler(classes)
