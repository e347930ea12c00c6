"""What a replay reads: lengths files, traffic logs and arrival traces; and what it says of bad ones."""

import gzip
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from predictor.records import Outcome, TrafficRecord
from predictor.traffic_store import open_store, write_records
from training.profiles import profile_named
from training.replay.workload import Item, Workload, read_workload
from training.sources import DataError


def write_trace(path: Path, text: str) -> str:
    """A compressed trace file."""
    path.write_bytes(gzip.compress(text.encode()))
    return str(path)


def test_a_trace_gives_sizes_and_times(tmp_path: Path) -> None:
    """Further columns do not matter, rows without a length are counted, and order is by time."""
    source = write_trace(
        tmp_path / "t.csv.gz",
        "t_seconds,client,prompt_tokens,output_tokens\n2.5,a,30,7\n1.0,b,20,9\n3,c,5,0\n",
    )
    workload = read_workload(source)
    assert workload.items == [Item(20, 9, 1.0), Item(30, 7, 2.5)]
    assert workload.skipped == 1
    assert workload.at_s is not None


def test_a_lengths_file_gives_sizes_and_text(tmp_path: Path) -> None:
    """Prompt tokens are taken where they are told, else a quarter of the characters; no times."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": "x" * 40, "output_tokens": 5},
        {"messages": [{"role": "user", "content": "y" * 80}], "output_tokens": 6, "prompt_tokens": 99},
        {"prompt": "hidden", "output_tokens": 6, "hidden_reasoning": True},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    workload = read_workload(str(path))
    assert [(item.prompt_tokens, item.output_tokens) for item in workload.items] == [(10, 5), (99, 6)]
    assert all(item.body is not None for item in workload.items)
    assert workload.skipped == 1
    assert workload.at_s is None


def test_a_traffic_log_gives_times_predictions_and_features(tmp_path: Path) -> None:
    """What was served is what is replayed; requests that were refused have no length and are counted."""
    values = np.array([1.5, np.nan], dtype="<f4").tobytes()
    records = [
        TrafficRecord("b", 2_000_000, "chat", Outcome.COMPLETED, prompt_tokens=8, output_tokens=3, quantile=0.25,
                      predicted_tokens=4.0, schema="s1", features=values),
        TrafficRecord("a", 1_000_000, "chat", Outcome.COMPLETED, prompt_tokens=9, output_tokens=4),
        TrafficRecord("c", 3_000_000, "chat", Outcome.REFUSED_FULL),
    ]  # fmt: skip
    database = open_store(tmp_path / "log.db")
    write_records(database, records, {"s1": ("one", "two")})
    database.close()
    workload = read_workload(f"sqlite:///{tmp_path}/log.db")
    first, second = workload.items
    assert (first.prompt_tokens, first.output_tokens, first.at_s, first.quantile) == (9, 4, 1.0, None)
    assert (second.quantile, second.tokens) == (0.25, 4.0)
    assert (second.features, second.names) == (values, ("one", "two"))
    assert workload.skipped == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("t_seconds,prompt_tokens\n1,2\n", "needs the column output_tokens"),
        ("t_seconds,prompt_tokens,output_tokens\n1,2,x\n", "t.csv.gz:2: .* must be numbers"),
        ("t_seconds,prompt_tokens,output_tokens\nnan,2,3\n", "t_seconds is not finite"),
        ("t_seconds,prompt_tokens,output_tokens\n1,2\n", "must be numbers"),
        ("t_seconds,prompt_tokens,output_tokens\n1,2,0\n", "no row tells"),
        ("", "needs the column t_seconds"),
    ],
)
def test_a_bad_trace_is_one_clear_error(tmp_path: Path, text: str, complaint: str) -> None:
    """The message names the file, and the line where there is one."""
    with pytest.raises(DataError, match=complaint):
        read_workload(write_trace(tmp_path / "t.csv.gz", text))


def test_damaged_files_are_clear_errors(tmp_path: Path) -> None:
    """Cut off, not compressed, not text, no database, or not there."""
    whole = gzip.compress(b"t_seconds,prompt_tokens,output_tokens\n" + b"1,2,3\n" * 10_000)
    for name, content in {
        "cut.csv.gz": whole[: len(whole) // 2],
        "plain.csv.gz": b"t_seconds",
        "binary.csv": b"t_seconds,prompt_tokens,output_tokens\n\xff\xfe\x00\x81\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_workload(str(tmp_path / name))
    (tmp_path / "log.db").write_bytes(b"no database" * 1_000)
    for source in (f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/none.db", f"{tmp_path}/none.csv"):
        with pytest.raises(DataError, match=r"log\.db|none"):
            read_workload(source)


def test_of_a_log_the_latest_are_replayed(tmp_path: Path) -> None:
    """What traffic was like a month ago tells nobody how to order today's; and a long log needs no more memory."""
    database = open_store(tmp_path / "log.db")
    records = [
        TrafficRecord(
            f"r{number:03}", 1_000_000 * number, "chat", Outcome.COMPLETED, output_tokens=1 + number
        )
        for number in range(100)
    ]
    broken = TrafficRecord("x", 200_000_000, "chat", Outcome.COMPLETED, output_tokens=-3)
    write_records(database, [*records, broken], {})
    database.close()
    workload = read_workload(f"sqlite:///{tmp_path}/log.db", latest=31)
    assert (len(workload), workload.skipped) == (30, 1)
    latest = workload.sized(20, repeat=False, rng=np.random.default_rng(1))
    assert latest.output_tokens.tolist() == list(range(81, 101))


def test_a_log_without_tables_is_an_error(tmp_path: Path) -> None:
    """Any other SQLite file is refused."""
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(DataError, match="not a readable traffic log"):
        read_workload(f"sqlite:///{tmp_path}/other.db")


def test_what_the_engine_could_never_serve_is_left_out() -> None:
    """Counted as skipped; where nothing is left, that is an error that names the remedy."""
    profile = profile_named("cpu-smollm2")
    workload = Workload("here", [Item(4_000, 96), Item(4_000, 97)])
    kept = workload.fitting(profile)
    assert (len(kept), kept.skipped) == (1, 1)
    with pytest.raises(DataError, match="--engine-profile"):
        Workload("here", [Item(5_000, 5)]).fitting(profile)


def test_repeating_uses_every_row_before_any_comes_twice() -> None:
    """25 requests from 10 rows: each row two or three times; without repeating, the first ones in order."""
    workload = Workload("here", [Item(1, length) for length in range(1, 11)])
    repeated = workload.sized(25, repeat=True, rng=np.random.default_rng(1))
    counts = np.bincount(repeated.output_tokens)[1:]
    assert len(repeated) == 25
    assert set(counts.tolist()) == {2, 3}
    assert workload.sized(3, repeat=False, rng=np.random.default_rng(1)).output_tokens.tolist() == [1, 2, 3]


def test_held_out_rows_are_replayed_alone(tmp_path: Path) -> None:
    """Where rows have a split, a ranker is not measured on what it was trained on; else all rows count."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": "x", "output_tokens": n, "split": "train" if n % 2 else "heldout"} for n in range(1, 9)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [item.output_tokens for item in read_workload(str(path)).heldout().items] == [2, 4, 6, 8]
    whole = Workload("here", [Item(1, 2), Item(1, 3)])
    assert whole.heldout() is whole


def test_a_length_beyond_all_numbers_costs_its_row_and_broken_text_is_named(tmp_path: Path) -> None:
    """Neither ends a replay in anything but a report or one clear error."""
    path = tmp_path / "lengths.jsonl"
    path.write_text(
        f'{{"prompt": "a", "output_tokens": {"9" * 400}}}\n{{"prompt": "b", "output_tokens": 3}}\n'
    )
    found = read_workload(str(path))
    assert (len(found), found.skipped) == (1, 1)
    path.write_text('{"prompt": "\\ud800", "output_tokens": 3}\n')
    with pytest.raises(DataError, match=r"lengths\.jsonl:1: .*surrogate"):
        read_workload(str(path))
