"""The gate before self-prediction's queries: their budget, what shuts it, and for how long."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.asking.gate import AskGate, AskLimits, Skip

SECOND_US = 1_000_000


@given(
    st.floats(0.01, 0.5),
    st.integers(1, 64),
    st.lists(st.tuples(st.integers(0, SECOND_US), st.floats(0.001, 2)), max_size=60),
)
def test_the_budget_is_kept(share: float, slots: int, asks: list[tuple[int, float]]) -> None:
    """What queries took never exceeds their share of the slots' time by more than what may be saved up, plus
    the one query that was under way."""
    gate = AskGate(AskLimits(share, 1.0), 0)
    now_us, spent_s, longest_s = 0, 0.0, 0.0
    for wait_us, took_s in asks:
        now_us += wait_us
        if gate.refuses(slots, now_us) is None:
            gate.asked()
            gate.ended(took_s, now_us, answered=True)
            spent_s += took_s
            longest_s = max(longest_s, took_s)
    assert spent_s <= 1.0 + share * slots * (now_us / 1e6) + longest_s + 1e-6


def test_five_failures_open_the_circuit_and_one_success_closes_it() -> None:
    """After failures nobody is asked for 30 s, then one; if that is answered, all are again."""
    gate = AskGate(AskLimits(0.5, 1.0), 0)
    for _ in range(5):
        assert gate.refuses(8, 0) is None
        gate.asked()
        gate.ended(0.0, 0, answered=False)
    assert gate.refuses(8, 29 * SECOND_US) is Skip.CIRCUIT
    assert gate.refuses(8, 31 * SECOND_US) is None
    gate.asked()
    assert gate.refuses(8, 31 * SECOND_US) is Skip.CIRCUIT
    gate.ended(0.0, 31 * SECOND_US, answered=True)
    gate.asked()
    assert gate.refuses(8, 31 * SECOND_US) is None


def test_an_engine_that_reuses_nothing_is_not_asked() -> None:
    """Where requests do not find what their queries computed, asking stops for ten minutes."""
    gate = AskGate(AskLimits(), 0)
    for _ in range(8):
        gate.reused(0, 0, 0)
        assert gate.refuses(8, 0) is None
        gate.reused(10, 100, 0)
    assert gate.refuses(8, 0) is Skip.NOT_CACHED
    assert gate.refuses(8, 601 * SECOND_US) is None


def test_few_are_asked_about_at_once() -> None:
    """A small engine answers one query at a time."""
    gate = AskGate(AskLimits(0.03, 0.03), 0)
    gate.asked()
    assert gate.refuses(16, 0) is Skip.BUSY
    assert gate.refuses(100, 0) is None


def test_a_ranker_that_cannot_use_signals_costs_a_part() -> None:
    """While signals are only collected, a part of the budget is earned."""
    gate = AskGate(AskLimits(0.1, 1.0), 0)
    gate.asked()
    gate.ended(2.0, 0, answered=True)
    assert gate.refuses(10, SECOND_US, 0.5) is Skip.BUDGET
    assert gate.refuses(10, 3 * SECOND_US, 0.5) is None
