"""What a retraining reads: the latest rows, split by time, with weights; and what it says of useless logs."""

from pathlib import Path

import numpy as np
import pytest
from logged_traffic import write_log
from msgspec.structs import replace

from predictor.records import Outcome, TrafficRecord
from predictor.traffic_store import open_store, read_records, read_schemas, write_records
from training.completion import completion_weights
from training.replay.workload import read_workload
from training.retrain.log import read_log
from training.sources import DataError


def test_the_older_part_is_trained_on_and_the_newer_held_out(tmp_path: Path) -> None:
    """Four fifths by time; records and rows stay side by side; only the latest rows are kept."""
    log = read_log(write_log(tmp_path, 400), most=300)
    assert (len(log.train), len(log.held), len(log.older), len(log.records)) == (240, 60, 240, 60)
    assert log.older[0].request_id == "r000100"
    assert log.held.label.tolist() == [one.output_tokens for one in log.records]
    assert log.newest == "399000000:r000399"
    assert set(log.train.split) == {"train"}


def test_the_latest_of_whom_the_long_have_not_ended_are_left_out(tmp_path: Path) -> None:
    """Read while it is written, a log lacks the long answers to those who came last: the held-out are as long as all
    are. A log of the past is read whole, and so is one that is too short to tell."""
    (tmp_path / "all").mkdir()
    write_log(tmp_path / "all", 1_000)
    slow = [
        replace(one, e2e_s=50 * (one.e2e_s or 0)) for one in read_records(tmp_path / "all" / "traffic.db")
    ]
    now_s = 1_000.0
    ended = [one for one in slow if one.arrival_us / 1e6 + (one.e2e_s or 0) <= now_s]
    database = open_store(tmp_path / "traffic.db")
    write_records(database, ended, read_schemas(tmp_path / "all" / "traffic.db"))
    database.close()
    source = f"sqlite:///{tmp_path / 'traffic.db'}"
    everybody = np.mean([one.output_tokens or 0 for one in slow])
    log = read_log(source, most=1_000, clock_s=lambda: now_s)
    assert log.held.label.mean() > 0.9 * everybody
    replayed = read_workload(source, clock_s=lambda: now_s)
    assert (
        replayed.sized(200, repeat=False, rng=np.random.default_rng(1)).output_tokens.mean() > 0.9 * everybody
    )
    assert log.newest == f"{ended[-1].arrival_us}:{ended[-1].request_id}"
    later = read_log(source, most=1_000, clock_s=lambda: 2 * now_s)
    assert len(later.train) + len(later.held) == len(ended)
    assert later.held.label.mean() < 0.8 * everybody
    few = read_log(source, most=220, clock_s=lambda: now_s)
    assert len(few.train) + len(few.held) == 220


def test_who_was_answered_stands_for_who_was_not() -> None:
    """Where half of those predicted long were lost, the others count double; the mean weight is 1."""
    answered = np.array([0.1] * 90 + [0.9] * 45)
    weight = completion_weights(answered, np.array([0.9] * 45))
    assert weight[-1] / weight[0] == pytest.approx(2.0, rel=0.03)
    assert weight.mean() == pytest.approx(1.0)
    assert completion_weights(answered, np.array([])).tolist() == [1.0] * 135


def test_nobody_stands_for_too_many_and_the_unknown_for_themselves() -> None:
    """One survivor of a thousand weighs four times as much as others, no more; no prediction, no correction."""
    weight = completion_weights(np.array([0.1] * 50 + [0.95, np.nan]), np.full(1000, 0.95))
    assert weight[50] / weight[0] == pytest.approx(4.0)
    assert weight[51] == weight[0]


def test_lost_requests_are_counted(tmp_path: Path) -> None:
    """Requests that expired or hung up are no rows, and weigh on those predicted alike."""
    source = write_log(tmp_path, 400)
    database = open_store(tmp_path / "traffic.db")
    lost = [
        TrafficRecord(f"x{number}", 1_000_000 * number + 1, "chat", Outcome.EXPIRED, quantile=0.95)
        for number in range(100)
    ]
    write_records(database, lost, {})
    database.close()
    log = read_log(source, most=1000)
    assert (len(log.train) + len(log.held), log.lost) == (400, 100)
    predicted = np.array([one.quantile for one in log.older])
    assert log.weight[predicted > 0.9].mean() > 1.5 * log.weight[predicted < 0.5].mean()


def test_an_answer_that_nobody_predicted_is_not_lost(tmp_path: Path) -> None:
    """Served while the ranker rested: no features to learn from, but it was answered, and nobody stands for it."""
    source = write_log(tmp_path, 400)
    database = open_store(tmp_path / "traffic.db")
    answered = [
        TrafficRecord(
            f"x{number}", 1_000_000 * number + 1, "chat", Outcome.COMPLETED, quantile=0.5, output_tokens=9
        )
        for number in range(100)
    ]
    write_records(database, answered, {})
    database.close()
    log = read_log(source, most=1000)
    assert log.lost == 0
    assert set(log.weight) == {1.0}


def test_answers_without_a_prediction_say_nothing_of_those_predicted_long() -> None:
    """A hundred of them beside ten that were predicted long, of whom half were lost: the ten count double."""
    answered = np.array([0.1] * 90 + [0.95] * 10 + [np.nan] * 100)
    weight = completion_weights(answered, np.full(10, 0.95))
    assert weight[90] / weight[0] == pytest.approx(21 / 11)


def test_useless_logs_are_told_apart(tmp_path: Path) -> None:
    """Missing, empty, too short, of one length, no database: each has its one line."""
    for name in ("few", "alike", "empty"):
        (tmp_path / name).mkdir()
    open_store(tmp_path / "empty" / "traffic.db").close()
    (tmp_path / "broken.db").write_bytes(b"SQLite format 3\x00 and then nothing of the kind" * 50)
    cases = {
        f"sqlite:///{tmp_path}/none.db": "no such file",
        f"sqlite:///{tmp_path}/empty/traffic.db": "the traffic log is empty",
        write_log(tmp_path / "few", 50): "50 answers with a length and features; at least 200",
        write_log(tmp_path / "alike", 250, length=7): "all 250 answers are 7 tokens long",
        f"sqlite:///{tmp_path}/broken.db": "not a readable traffic log",
    }
    for source, said in cases.items():
        with pytest.raises(DataError, match=said):
            read_log(source, most=1000)
