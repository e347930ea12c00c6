"""The journal keeps every decision and tells who served before; locks keep two from doing the same work."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.registry import models_directory
from training.registry.journal import (
    BusyError,
    Decision,
    Outcome,
    champions_before,
    locked,
    read_decisions,
    write_decision,
)


def decided(outcome: Outcome, artifact: str | None) -> Decision:
    """A decision."""
    return Decision(action="test", outcome=outcome, reason="why not", artifact=artifact)


def test_decisions_are_read_back_in_order(tmp_path: Path) -> None:
    """What was written is read, with the time of its writing; no journal is no decision."""
    assert read_decisions(tmp_path) == []
    written = [write_decision(tmp_path, decided(Outcome.REFUSED, name)) for name in ("a", "b")]
    assert read_decisions(tmp_path) == written
    assert written[0].at


def test_a_line_that_was_cut_short_costs_itself_alone(tmp_path: Path) -> None:
    """After a crash in mid-line the earlier decisions and the next one are whole."""
    first = write_decision(tmp_path, decided(Outcome.PUBLISHED, "a"))
    journal = models_directory(tmp_path) / "decisions.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"action": "retr')
    second = write_decision(tmp_path, decided(Outcome.PUBLISHED, "b"))
    assert read_decisions(tmp_path) == [first, second]


def test_the_way_back_forgets_who_was_rolled_back() -> None:
    """After a rollback the next one goes further back, and ends at the ranker in the wheel."""
    told = [decided(Outcome.PUBLISHED, "a"), decided(Outcome.REFUSED, "x"), decided(Outcome.PUBLISHED, "b")]
    assert champions_before(told, "b") == [None, "a"]
    told.append(decided(Outcome.ROLLED_BACK, "a"))
    assert champions_before(told, "a") == [None]
    assert champions_before([], "stranger") == [None]
    assert champions_before(told, None) == []


@given(st.lists(st.tuples(st.sampled_from(list(Outcome)), st.sampled_from([None, "a", "b", "c"]))))
def test_nobody_serves_twice_in_a_row(steps: list[tuple[Outcome, str | None]]) -> None:
    """Whatever happened, the champion itself is never the one to go back to."""
    told = [decided(*step) for step in steps]
    for champion in (None, "a", "b"):
        assert champion not in champions_before(told, champion)[-1:]


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """The second is told at once; when the first has ended the lock is free."""
    with (
        locked(tmp_path, "work.lock", wait=False),
        pytest.raises(BusyError, match="another one is at work"),
        locked(tmp_path, "work.lock", wait=False),
    ):
        pytest.fail("two hold one lock")
    with locked(tmp_path, "work.lock", wait=False):
        pass
