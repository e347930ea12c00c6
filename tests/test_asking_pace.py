"""How long a query's answer is waited for follows the engine, within bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.asking.gate import AskGate, AskLimits, Skip
from proxy.asking.pace import LONGEST_S, SHORTEST_S, Pace


def ask(pace: Pace, takes_s: float) -> bool:
    """One query to an engine that needs so long for it; whether it was answered in time."""
    if takes_s < pace.deadline_s:
        pace.answered(takes_s)
        return True
    pace.given_up()
    return False


def test_a_fast_engine_is_not_waited_for_long() -> None:
    """After a few answers of a few milliseconds the deadline is the shortest there is."""
    pace = Pace()
    for _ in range(3):
        assert ask(pace, 0.02)
    assert pace.deadline_s == SHORTEST_S


@pytest.mark.parametrize("takes_s", [0.3, 0.7, 1.5, 3.0, 4.5])
def test_a_slow_engine_is_given_the_time_it_needs(takes_s: float) -> None:
    """Its first queries may fail, but too few for the circuit to open; then all are answered."""
    gate = AskGate(AskLimits(0.5, 1.0), 0)
    early = 0
    while not ask(gate.pace, takes_s):
        early += 1
        gate.asked()
        gate.ended(0.0, 0, answered=False)
        assert gate.refuses(8, 0) is not Skip.CIRCUIT
    assert early < 5
    assert all(ask(gate.pace, takes_s) for _ in range(50))
    assert gate.pace.deadline_s == pytest.approx(min(LONGEST_S, 3 * takes_s), rel=0.01)


def test_it_follows_an_engine_that_becomes_fast_again() -> None:
    """Slow days do not stay: after some dozen quick answers the deadline is short."""
    pace = Pace()
    for _ in range(20):
        ask(pace, 4.0)
    for _ in range(40):
        assert ask(pace, 0.05)
    assert pace.deadline_s < 2 * SHORTEST_S


@given(st.lists(st.floats(0, 100)))
def test_it_stays_within_bounds(times_s: list[float]) -> None:
    """Whatever the engine does."""
    pace = Pace()
    for takes_s in times_s:
        ask(pace, takes_s)
        assert SHORTEST_S <= pace.deadline_s <= LONGEST_S


@given(st.lists(st.floats(0, 100)), st.floats(0.01, 60))
def test_what_the_operator_has_set_stays(times_s: list[float], set_s: float) -> None:
    """An explicit deadline is not moved by what is seen, and binds the gate of every engine."""
    pace = AskGate(AskLimits(deadline_s=set_s), 0).pace
    for takes_s in times_s:
        ask(pace, takes_s)
        assert pace.deadline_s == set_s
