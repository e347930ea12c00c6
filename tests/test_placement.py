"""Whose turn it is where room in a KV cache is what is short, and which engine a request goes to."""

from typing import Any

from scheduling import one_engine, predicted

from predictor.prediction import Prediction
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.policy import Fcfs
from proxy.scheduling.queued import QueuedRequest, State
from proxy.scheduling.scheduler import Scheduler


def asked(seq: int, prompt_tokens: int, class_name: str) -> QueuedRequest:
    """A request that holds its prompt and next to nothing else."""
    return QueuedRequest(
        seq, f"r{seq}", seq, Prediction(0.5, 0, 0, 0), class_name, prompt_tokens=prompt_tokens
    )


def before_an_engine_of_a_thousand_tokens(**batch: Any) -> tuple[Scheduler, QueuedRequest]:
    """With one request of 600 tokens there, and many places."""
    scheduler = Scheduler([ServiceClass("fast", Fcfs()), ServiceClass("batch", Fcfs(), tier=1, **batch)])
    scheduler.add_replica("engine", 100, 0)
    first = asked(0, 600, "fast")
    scheduler.submit(first, 0)
    scheduler.replica("engine").kv.observe(0.6)
    return scheduler, first


def test_a_worse_tier_does_not_fill_the_cache_that_a_better_one_waits_for() -> None:
    """Batch would fit beside it, again and again; the large request of the better class comes first."""
    scheduler, first = before_an_engine_of_a_thousand_tokens()
    large = asked(1, 700, "fast")
    scheduler.submit(large, 0)
    small = [asked(seq, 200, "batch") for seq in range(2, 6)]
    for item in small:
        scheduler.submit(item, 0)
    assert {item.state for item in (large, *small)} == {State.WAITING}
    assert [item.seq for item in scheduler.finish(first, 0).started] == [1, 2]


def test_a_better_tier_passes_a_worse_one_that_does_not_fit() -> None:
    """Also where the worse one's share has come due: what is too large for now holds up no better class."""
    scheduler, _ = before_an_engine_of_a_thousand_tokens(min_share=0.5)
    scheduler.submit(asked(1, 700, "batch"), 0)
    for seq in range(2, 8):
        item = asked(seq, 50, "fast")
        scheduler.submit(item, 0)
        assert item.state is State.RUNNING


def test_another_engine_is_no_place_to_wait_for() -> None:
    """Who fits elsewhere goes there, and keeps nobody from anything."""
    scheduler, _ = before_an_engine_of_a_thousand_tokens()
    scheduler.add_replica("other", 1, 0)
    large, small = asked(1, 700, "fast"), asked(2, 200, "batch")
    scheduler.submit(large, 0)
    scheduler.submit(small, 0)
    assert (large.replica, small.replica) == ("other", "engine")


def test_who_waited_behind_a_large_one_goes_when_it_gives_up() -> None:
    """The first in line leaves without having been sent; the next one fits, and needs nobody's end for it."""
    scheduler, _ = before_an_engine_of_a_thousand_tokens()
    large, small = asked(1, 700, "fast"), asked(2, 200, "fast")
    scheduler.submit(large, 0)
    scheduler.submit(small, 0)
    assert small.state is State.WAITING
    assert scheduler.cancel(large, 0).started == [small]


def test_an_engine_that_orders_by_itself_is_sent_everything() -> None:
    """Without a window nothing is held back for the cache's sake: what waits in the engine holds none of it."""
    scheduler, _ = before_an_engine_of_a_thousand_tokens()
    large = asked(1, 700, "fast")
    scheduler.submit(large, 0)
    assert large.state is State.WAITING
    assert scheduler.set_window("engine", None, 0).started == [large]


def small_ones(scheduler: Scheduler, class_name: str, first: int, count: int = 20) -> list[QueuedRequest]:
    """So many small requests of a class, in arrival order."""
    items = [asked(seq, 1, class_name) for seq in range(first, first + count)]
    for item in items:
        scheduler.submit(item, 0)
    return items


def test_a_share_that_could_not_be_used_is_not_saved_up() -> None:
    """A class that was closed for a hundred dispatches gets its share when it opens, not all that it missed."""
    night = ServiceClass("batch", Fcfs(), tier=1, min_share=0.25, hours=((22 * 60, 23 * 60),))
    scheduler = Scheduler([ServiceClass("fast", Fcfs()), night])
    scheduler.add_replica("engine", 0, 0)
    small_ones(scheduler, "fast", 0, 150)
    small_ones(scheduler, "batch", 1_000, 50)
    noon_us, night_us = 12 * 3600 * 10**6, 22 * 3600 * 10**6
    for count in range(1, 101):
        assert [item.class_name for item in scheduler.set_window("engine", count, noon_us).started] == [
            "fast"
        ]
    opened = scheduler.set_window("engine", 120, night_us).started
    assert 5 <= sum(item.class_name == "batch" for item in opened) <= 6


def test_a_class_holds_no_more_of_a_window_than_its_share() -> None:
    """However idle the engine; one place it may always have, and a place given back may be taken again."""
    scheduler = Scheduler([ServiceClass("fast", Fcfs()), ServiceClass("batch", Fcfs(), 1, window_share=0.5)])
    scheduler.add_replica("engine", 8, 0)
    items = small_ones(scheduler, "batch", 0)
    running = [item for item in items if item.state is State.RUNNING]
    assert len(running) == 4
    assert [item.seq for item in scheduler.finish(running[0], 0).started] == [4]
    scheduler.add_replica("small", 1, 0)
    assert sum(item.replica == "small" for item in items) == 1
    assert all(item.state is State.RUNNING for item in small_ones(scheduler, "fast", 100, 4))


def test_the_least_busy_engine_takes_the_next() -> None:
    """Requests spread evenly, and go where a place has become free."""
    scheduler = Scheduler([ServiceClass("fast", Fcfs())])
    for name in ("one", "two", "three"):
        scheduler.add_replica(name, 8, 0)
    items = small_ones(scheduler, "fast", 0, 9)
    assert [replica.running for replica in scheduler.replicas] == [3, 3, 3]
    gone = [item for item in items if item.replica == "two"]
    for item in gone[:2]:
        scheduler.finish(item, 0)
    assert {item.replica for item in small_ones(scheduler, "fast", 100, 2)} == {"two"}


def test_an_engine_that_has_the_prompt_is_preferred_and_not_waited_for() -> None:
    """Busier or not, while it has a place; when it is full the request goes elsewhere."""
    scheduler = Scheduler([ServiceClass("fast", Fcfs())])
    scheduler.add_replica("one", 4, 0)
    small_ones(scheduler, "fast", 0, 3)
    scheduler.add_replica("two", 4, 0)
    bound = [asked(seq, 1, "fast") for seq in (100, 101)]
    for item in bound:
        item.bound_to = "one"
        scheduler.submit(item, 0)
    assert [item.replica for item in bound] == ["one", "two"]


def test_what_one_engine_keeps_is_sent_there_alone() -> None:
    """In its turn, though the others are less busy and that one is full, so that nobody waits behind it; to any
    engine once that one is gone, which will say so."""
    scheduler = one_engine(Fcfs())
    scheduler.add_replica("other", 4, 0)
    scheduler.set_window("engine", 1, 0)
    kept = [QueuedRequest(seq, str(seq), seq, predicted(0.5), kept_at="engine") for seq in range(3)]
    assert [scheduler.submit(item, item.seq).started for item in kept[:2]] == [[kept[0]], [kept[1]]]
    assert [item.replica for item in kept[:2]] == ["engine", "engine"]
    scheduler.set_window("engine", 0, 2)
    assert not scheduler.submit(kept[2], 2).started
    assert scheduler.set_available("engine", False, 3).started == [kept[2]]
    assert kept[2].replica == "other"
