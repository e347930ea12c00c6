"""The journal keeps every decision and tells who served before; locks keep two from doing the same work."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.registry import journal_path, models_directory
from training.registry.journal import (
    BusyError,
    Decision,
    Outcome,
    champions_before,
    locked,
    read_decisions,
    recorded,
    worked_through,
    write_decision,
)


def decided(outcome: Outcome, artifact: str | None, replaced: str | None = None) -> Decision:
    """A decision."""
    return Decision(action="test", outcome=outcome, reason="why not", artifact=artifact, replaced=replaced)


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


def test_a_log_is_worked_through_once_it_was_decided_on() -> None:
    """By a retraining that came to its end: not by weighing what somebody else has trained, nor by one that was killed
    between its line and its pointer."""
    first = Decision(action="retrain", outcome=Outcome.REFUSED, reason="", newest="1:a")
    by_hand = Decision(action="publish", outcome=Outcome.REFUSED, reason="", newest="2:b")
    last = Decision(action="retrain", outcome=Outcome.PUBLISHED, reason="", newest="3:c", artifact="new")
    assert worked_through([first, by_hand, last], "new") == {"1:a", "3:c"}
    assert worked_through([first, by_hand, last], "old") == {"1:a"}
    rolled_back = Decision(action="rollback", outcome=Outcome.ROLLED_BACK, reason="", artifact="old")
    assert worked_through([last, rolled_back], "old") == {"3:c"}
    assert worked_through([], None) == set()


def test_the_way_back_forgets_who_was_rolled_back() -> None:
    """After a rollback the next one goes further back, and ends at the ranker in the wheel."""
    told = [decided(Outcome.PUBLISHED, "a"), decided(Outcome.REFUSED, "x")]
    told.append(decided(Outcome.PUBLISHED, "b", "a"))
    assert champions_before(told, "b") == [None, "a"]
    told.append(decided(Outcome.ROLLED_BACK, "a"))
    assert champions_before(told, "a") == [None]
    assert champions_before([], "stranger") == [None]
    assert champions_before(told, None) == []


def test_who_never_served_is_not_gone_back_to() -> None:
    """Killed between the line and the pointer: x was to serve after a, but it was a whom b replaced."""
    told = [decided(Outcome.PUBLISHED, "a"), decided(Outcome.PUBLISHED, "x", "a")]
    assert champions_before(told, "a") == [None]
    assert champions_before([*told, decided(Outcome.PUBLISHED, "b", "a")], "b") == [None, "a"]


def test_a_line_that_does_not_hold_is_taken_out(tmp_path: Path) -> None:
    """Where what a decision leads to fails, the journal is byte for byte as before, half a line at its end too."""
    first = write_decision(tmp_path, decided(Outcome.PUBLISHED, "a"))
    with journal_path(tmp_path).open("ab") as file:
        file.write(b'{"action": "retr')
    before = journal_path(tmp_path).read_bytes()
    with pytest.raises(OSError, match="no"), recorded(tmp_path, decided(Outcome.PUBLISHED, "b", "a")):
        assert [one.artifact for one in read_decisions(tmp_path)] == ["a", "b"]
        raise OSError("no")
    assert journal_path(tmp_path).read_bytes() == before
    assert read_decisions(tmp_path) == [first]


def test_a_disk_that_is_full_takes_no_half_line(tmp_path: Path) -> None:
    """The disk takes the beginning of a line and refuses the rest: an OSError, and the journal is as before."""
    write_decision(tmp_path, decided(Outcome.PUBLISHED, "a"))
    before = journal_path(tmp_path).read_bytes()
    script = (
        "import resource, signal, sys; from pathlib import Path; "
        "from training.registry.journal import Decision, Outcome, write_decision; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 9},) * 2); "
        "write_decision(Path(sys.argv[1]), Decision(action='test', outcome=Outcome.REFUSED, reason=''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False,
    )  # fmt: skip
    assert "File too large" in done.stderr
    assert journal_path(tmp_path).read_bytes() == before


STEP = st.tuples(st.sampled_from(list(Outcome)), *[st.sampled_from([None, "a", "b", "c"])] * 2)


@given(st.lists(STEP))
def test_nobody_serves_twice_in_a_row(steps: list[tuple[Outcome, str | None, str | None]]) -> None:
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
