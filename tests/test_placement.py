"""Whose turn it is where room in a KV cache is what is short."""

from typing import Any

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


def test_an_engine_that_orders_by_itself_is_sent_everything() -> None:
    """Without a window nothing is held back for the cache's sake: what waits in the engine holds none of it."""
    scheduler, _ = before_an_engine_of_a_thousand_tokens()
    large = asked(1, 700, "fast")
    scheduler.submit(large, 0)
    assert large.state is State.WAITING
    assert scheduler.set_window("engine", None, 0).started == [large]
