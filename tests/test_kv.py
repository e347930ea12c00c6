"""The KV budget's promises: what runs is counted exactly, and little of it is preempted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from window_simulation import Setup, Simulation

from proxy.scheduling.kv import KvBudget
from proxy.scheduling.window import WindowController


@pytest.mark.parametrize("capacity", [16_000, None], ids=["capacity known", "capacity learned"])
def test_most_preemptions_are_saved(capacity: int | None) -> None:
    """Predicted footprints keep out most of what would be preempted, for next to nothing of the throughput."""
    setup = Setup(slots=64, changes={"num_blocks": 1_000}, output=lambda rng: rng.randint(20, 600))
    direct = Simulation(setup)
    ours = Simulation(setup, [WindowController()], KvBudget(capacity))
    for simulation in (direct, ours):
        simulation.run(seconds=90.0)
        simulation.start_tally()
        simulation.run(seconds=40.0)
    assert direct.preemptions > 0.5
    assert ours.preemptions < 0.4 * direct.preemptions
    assert ours.work_rate > 0.97 * direct.work_rate


def test_a_large_cache_holds_nobody() -> None:
    """Where the cache is not short, the budget changes nothing: slots decide."""
    simulation = Simulation(Setup(slots=32), [WindowController()], KvBudget(400_000))
    simulation.run(seconds=10.0)
    simulation.start_tally()
    simulation.run(seconds=20.0)
    assert simulation.idle_share < 0.02


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5_000), st.integers(0, 5_000)), max_size=80))
def test_the_kv_budget_is_what_runs(events: list[tuple[int, int, int]]) -> None:
    """What is held is exactly the sum over the running requests, and one may always run."""
    budget = KvBudget(4_000)
    running: dict[int, tuple[int, int]] = {}
    for seq, prompt, output in events:
        if seq in running:
            budget.release(seq)
            del running[seq]
        else:
            budget.admit(seq, prompt, output)
            running[seq] = (prompt, output)
        budget.release(99)
        assert budget.held_tokens == sum(prompt + output / 2 for prompt, output in running.values())
        assert running or budget.fits(1 << 40, 1 << 40)


def test_a_request_fits_while_the_capacity_lasts() -> None:
    """Prompts count in full, answers by half, with a margin that grows with the largest of them."""
    budget = KvBudget(1_000)
    budget.admit(1, 400, 200)
    assert budget.fits(350, 100)
    assert not budget.fits(350, 200)
    assert not budget.fits(200, 500)
    assert KvBudget(1_000, caution=0.0).fits(5_000, 0)


def test_capacity_is_learned_from_the_gauge_and_not_from_a_full_one() -> None:
    """Usage calibrates the capacity; a full cache can only lower it, for it hides what is wanted beyond."""
    budget = KvBudget()
    budget.admit(1, 400, 200)
    budget.observe(0.1)
    assert budget.capacity_tokens is None
    budget.observe(0.25)
    assert budget.capacity_tokens == 2_000
    budget.admit(2, 4_000, 0)
    budget.observe(1.0)
    assert 1_900 < (budget.capacity_tokens or 0) < 2_000
    budget.release(2)
    for _ in range(200):
        budget.observe(0.5)
    assert budget.capacity_tokens == pytest.approx(1_000, rel=0.01)


def test_a_capacity_learned_too_small_is_undone() -> None:
    """One bad reading must not hold requests back for ever: an empty cache says that there is more."""
    budget = KvBudget()
    budget.admit(1, 40, 20)
    budget.observe(1.0)
    assert not budget.fits(100, 100)
    for _ in range(3):
        budget.observe(0.01)
    assert budget.fits(100, 100)
