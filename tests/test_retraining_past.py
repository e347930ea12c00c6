"""What a supervisor goes on from: the journal's end and the rows that the last retraining had not read."""

import sqlite3
from pathlib import Path

import pytest
from logged_traffic import write_log

from predictor.registry import journal_path
from proxy.retraining_past import Past, look_back
from training.registry.journal import Decision, Outcome, read_decisions, write_decision


def decide(state: Path, outcome: Outcome, action: str = "retrain", newest: str = "") -> None:
    """A decision as a trainer writes it."""
    write_decision(state, Decision(action=action, outcome=outcome, reason="x" * 500, newest=newest))


def test_nothing_was_ever_done_or_logged(tmp_path: Path) -> None:
    """No state directory at all: no past, and none is made."""
    assert look_back(tmp_path / "state", 100) == Past(None, 0, 0)
    assert not (tmp_path / "state").exists()


def test_the_last_retraining_counts_and_no_other_decision(tmp_path: Path) -> None:
    """Time and rows are the last retraining's, which a rollback by hand does not change; rows up to the bound."""
    write_log(tmp_path, 50)
    assert look_back(tmp_path, 100) == Past(0.0, 50, 0)
    decide(tmp_path, Outcome.PUBLISHED, newest="9000000:r000009")
    decide(tmp_path, Outcome.PUBLISHED, newest="19000000:r000019")
    decide(tmp_path, Outcome.ROLLED_BACK, "rollback")
    found = look_back(tmp_path, 100)
    assert found.since_s is not None
    assert found.since_s > 1.6e9
    assert (found.new_rows, look_back(tmp_path, 7).new_rows) == (30, 7)


def test_refusals_in_a_row_are_counted(tmp_path: Path) -> None:
    """Retrainings alone count; whoever was published ends the row, however that came."""
    for outcome, action, refusals in (
        (Outcome.REFUSED, "retrain", 1),
        (Outcome.REFUSED, "publish", 1),
        (Outcome.REFUSED, "retrain", 2),
        (Outcome.PUBLISHED, "publish", 0),
        (Outcome.REFUSED, "retrain", 1),
        (Outcome.SHADOWED, "retrain", 0),
    ):
        decide(tmp_path, outcome, action)
        assert look_back(tmp_path, 0).refusals == refusals


def test_of_a_long_journal_the_end_is_enough(tmp_path: Path) -> None:
    """More decisions than are read, a line cut short, another one of nonsense: the latest are found."""
    decide(tmp_path, Outcome.REFUSED)
    line = journal_path(tmp_path).read_bytes()
    with journal_path(tmp_path).open("ab") as journal:
        journal.write(line * 1000 + b"\xff\n" + line[:50])
    decide(tmp_path, Outcome.REFUSED)
    assert len(read_decisions(tmp_path)) == 1002
    assert 100 < look_back(tmp_path, 0).refusals < 1002


def test_a_log_that_is_none_is_an_error(tmp_path: Path) -> None:
    """Damage is the caller's to say, not silence."""
    (tmp_path / "traffic.db").write_bytes(b"no database " * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        look_back(tmp_path, 100)
