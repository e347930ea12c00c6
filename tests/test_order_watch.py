"""The proxy finds out by itself whether an engine honours priorities."""

import random

import pytest

from proxy.order_watch import OrderWatch, Sighting, Verdict

SERVICE_US = 200_000


def crowd(honours: bool, count: int = 120, slots: int = 4, seed: int = 7) -> list[Sighting]:
    """Requests through an engine with a queue, served by key or by arrival; each holds a slot for a while."""
    rng = random.Random(seed)
    waiting = [(i * 30_000, rng.randrange(10**6)) for i in range(count)]
    free_us = [0] * slots
    seen = []
    while waiting:
        slot = free_us.index(min(free_us))
        now_us = max(free_us[slot], waiting[0][0])
        there = [request for request in waiting if request[0] <= now_us]
        chosen = min(there, key=lambda request: request[1] if honours else request[0])
        waiting.remove(chosen)
        free_us[slot] = now_us + rng.randrange(SERVICE_US // 2, SERVICE_US)
        seen.append(Sighting(chosen[0], now_us + 5_000, chosen[1]))
    return seen


@pytest.mark.parametrize(("honours", "verdict"), [(True, Verdict.HONOURED), (False, Verdict.IGNORED)])
def test_a_queue_tells_the_engines_order(honours: bool, verdict: Verdict) -> None:
    """After a crowd has passed, an engine that honours keys and one that serves by arrival are told apart."""
    watch = OrderWatch()
    for sighting in crowd(honours):
        watch.observe(sighting)
    assert watch.verdict is verdict


def test_without_a_queue_nothing_is_claimed() -> None:
    """Requests that never waited together prove nothing, however many there are."""
    watch = OrderWatch()
    for i in range(500):
        watch.observe(Sighting(i * 100_000, i * 100_000 + 9_000, -i))
    assert watch.verdict is Verdict.UNPROVEN
    assert watch.pairs == 0


def test_an_engine_that_changes_is_noticed() -> None:
    """The watch never stops: an engine restarted without its flag is found out."""
    watch = OrderWatch()
    for sighting in crowd(honours=True):
        watch.observe(sighting)
    for sighting in crowd(honours=False, seed=8):
        watch.observe(sighting)
    assert watch.verdict is Verdict.IGNORED
