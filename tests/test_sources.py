"""Where rows come from: each kind of file is read row by row, and what is wrong is said with file and line."""

import contextlib
import gzip
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from predictor.records import Outcome, TrafficRecord
from predictor.traffic_store import open_store, write_records
from training.sources import DataError, fingerprint, read_source, read_traffic

ROWS = [{"prompt": "Hello", "output_tokens": 5}, {"prompt": "World", "output_tokens": 7, "max_tokens": 9}]


def lines(*rows: object) -> bytes:
    """JSON Lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(path: Path | str) -> list[dict[str, Any]]:
    """All rows of a source."""
    return [row for _, row in read_source(str(path))]


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    """Plain, compressed and columnar; what a column has no value for is absent."""
    (tmp_path / "a.jsonl").write_bytes(lines(*ROWS))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(*ROWS)))
    pq.write_table(pa.Table.from_pylist(ROWS[::-1]).slice(0), tmp_path / "a.parquet")
    assert read(tmp_path / "a.jsonl") == ROWS == read(tmp_path / "a.jsonl.gz")
    assert read(tmp_path / "a.parquet") == ROWS[::-1]


def test_a_row_says_where_it_stands(tmp_path: Path) -> None:
    """By line of the file, blank lines counted, as an editor counts."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(ROWS[0]) + b"\n  \n" + lines(ROWS[1]))
    assert [row.location for row in read_source(str(path))] == [f"{path}:1", f"{path}:4"]


def test_messages_as_json_text_are_read(tmp_path: Path) -> None:
    """A Parquet column often holds a conversation as text; text that is none is refused with its row."""
    said = [{"role": "user", "content": "Hello"}]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"messages": [json.dumps(said), "Hello"], "output_tokens": [1, 2]}), path)
    rows = read_source(str(path))
    assert next(rows).row["messages"] == said
    with pytest.raises(DataError, match=r"a\.parquet:row 2: messages is text that is not JSON"):
        next(rows)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", lines(ROWS[0]) + b"{", r"a\.jsonl:2: not JSON"),
        ("a.jsonl", lines(ROWS[0], [1]), r"a\.jsonl:2: a JSON object is expected, not a list"),
        ("a.jsonl", lines(ROWS[0]) + b"\xff\xfe\n", r"a\.jsonl:2: not JSON"),
        ("a.jsonl", lines(ROWS[0]) + b"[" * 100_000, r"a\.jsonl:2: not JSON"),
        ("a.jsonl", lines(ROWS[0]) + b'{"output_tokens": 1' + b"0" * 5000 + b"}", r"a\.jsonl:2: not JSON"),
        ("a.jsonl.gz", b"not packed at all", r"a\.jsonl\.gz: damaged or cut off after line 0"),
        ("a.jsonl.gz", gzip.compress(lines(*ROWS), mtime=0)[:-12], r"a\.jsonl\.gz: damaged or cut off"),
        ("a.jsonl.gz", gzip.compress(b"x", mtime=0)[:10] + b"\xff" * 9, r"a\.jsonl\.gz: damaged or cut off"),
        ("a.parquet", b"PAR1 not really PAR1", r"a\.parquet: not a readable Parquet file"),
        ("a.csv", b"a,b\n", r"a\.csv: unknown kind of source; use \*\.jsonl"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    """One clear error: the file, the line where there is one, and what is wrong there."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "source", ["nowhere.jsonl", "sqlite:///nowhere.db", "", "a\0b.jsonl", "redis://127.0.0.1:1/0"]
)
def test_a_source_that_is_not_there_is_named(source: str) -> None:
    """A misspelt file is not an empty one, and no file is made of it."""
    with pytest.raises(DataError, match=r"no such file|gives no traffic log"):
        read(source)


@pytest.mark.parametrize("prefix", ["", "sqlite:///"])
def test_a_directory_is_called_one(tmp_path: Path, prefix: str) -> None:
    """It is there, so "no such file" would send its reader looking for a misspelling."""
    with pytest.raises(DataError, match=f"^{prefix}{tmp_path}: is a directory, a file is expected$"):
        read(f"{prefix}{tmp_path}")


@profile(max_examples=60)
@given(st.binary(max_size=60), st.sampled_from([".jsonl", ".jsonl.gz", ".parquet"]))
def test_no_bytes_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: str
) -> None:
    """Any file is rows or a DataError that names it."""
    path = tmp_path_factory.mktemp("junk") / f"a{kind}"
    path.write_bytes(content)
    try:
        read(path)
    except DataError as error:
        assert str(path) in str(error)


def record(number: int, **fields: Any) -> TrafficRecord:
    """A completed answer of ten tokens with two features."""
    given_fields = {
        "outcome": Outcome.COMPLETED, "finish_reason": "stop", "output_tokens": 10, "schema": "s",
        "features": np.array([number, 0.5], dtype="<f4").tobytes(),
    } | fields  # fmt: skip
    return TrafficRecord(request_id=f"r{number}", arrival_us=number, api="x", **given_fields)


@contextlib.contextmanager
def log_of(path: Path, *records: TrafficRecord) -> Iterator[str]:
    """A traffic log of these records, as a source."""
    database = open_store(path)
    try:
        write_records(database, records, {"s": ("a", "b")})
        yield f"sqlite:///{path}"
    finally:
        database.close()


def test_a_traffic_log_gives_its_answers_in_order_of_arrival(tmp_path: Path) -> None:
    """Only answers that ran to their end or their limit, with their features; the cut ones say so."""
    ended = [
        record(4),
        record(3, finish_reason="length"),
        record(2, outcome=Outcome.CLIENT_GONE),
        record(1, outcome=Outcome.ENGINE_ERROR),
        record(5, schema="unknown"),
        record(6, schema=None, features=None),
        record(7, finish_reason="max_tokens"),
    ]
    with log_of(tmp_path / "t.db", *ended) as source:
        rows = read(source)
    assert [(row["id"], row["truncated"]) for row in rows] == [("r3", True), ("r4", False), ("r7", True)]
    assert {row["feature_names"] for row in rows} == {("a", "b")}


def test_a_log_is_read_while_it_is_written(tmp_path: Path) -> None:
    """Retraining does not wait for serving."""
    with log_of(tmp_path / "t.db", record(1)) as source:
        assert len(read(source)) == 1


@pytest.mark.parametrize("damage", ["no database", "no log", "a broken row"])
def test_a_log_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    """Another file, another database, a row that is no record: one clear error, never a traceback."""
    path = tmp_path / "t.db"
    if damage == "no database":
        path.write_bytes(b"something else entirely, of some length" * 100)
    elif damage == "no log":
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE other (x)")
    else:
        with log_of(path, record(1)):
            pass
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE traffic SET record = ?", (b'{"request_id": "\xff"}',))
    with pytest.raises(DataError, match=r"t\.db: not a readable traffic log"):
        read(f"sqlite:///{path}")


def test_a_damaged_row_costs_itself_alone_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One row that is no record does not keep the others from being learned from; one line counts it."""
    path = tmp_path / "t.db"
    with log_of(path, *map(record, range(3))) as source:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE traffic SET record = x'FF' WHERE arrival_us = 1")
        assert [row["id"] for row in read(source)] == ["r0", "r2"]
    assert "t.db: damaged rows left out: 1" in caplog.text


def test_damaged_pages_are_one_clear_error(tmp_path: Path) -> None:
    """Behind a sound header, wherever they are met: the file is named and no traceback is shown."""
    path = tmp_path / "t.db"
    with log_of(path, *map(record, range(2000))) as source:
        pass
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"\xff" * 65536 + content[middle + 65536 :])
    with pytest.raises(DataError, match=r"t\.db: not a readable traffic log: .*malformed"):
        read(source)


def test_rows_from_the_future_are_left_out_of_a_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A clock that was ahead for an hour must not make its rows the newest for ever; it is said how many there are."""
    now_us = time.time_ns() // 1000
    with contextlib.closing(open_store(tmp_path / "t.db")) as database:
        records = [
            TrafficRecord(f"r{hours}", now_us + hours * 3600 * 10**6, "chat", Outcome.COMPLETED)
            for hours in (-2, -1, 1, 50_000)
        ]
        write_records(database, records, {})
    found = [one.record.request_id for one in read_traffic(f"sqlite:///{tmp_path}/t.db")]
    assert found == ["r-2", "r-1"]
    assert "requests dated later than now left out: 2" in caplog.text


def test_a_fingerprint_tells_contents_apart(tmp_path: Path) -> None:
    """The same rows under another name are the same data; one row more is not. A log, which grows, is
    itself, and so is a part of it."""
    for name, rows in (("a", ROWS), ("b", ROWS), ("c", ROWS[:1])):
        (tmp_path / name).write_bytes(lines(*rows))
    marks = [fingerprint(str(tmp_path / name)) for name in "abc"]
    assert marks[0] == marks[1] != marks[2]
    with log_of(tmp_path / "t.db", record(1)) as source:
        before = fingerprint(source)
    with log_of(tmp_path / "t.db", record(2)) as source:
        assert fingerprint(source) == before
    shared = "redis://:secret@host:6379/0"
    assert fingerprint(shared) == fingerprint(f"{shared}?since=2026-01-01&until=2026-02-01")
    assert fingerprint(shared) != fingerprint("redis://:secret@host:6379/1")


def test_an_error_about_all_rows_names_their_source() -> None:
    """A message without a line of its own is given the source's name once."""
    assert DataError("no usable row").of("a.jsonl") == "a.jsonl: no usable row"
    assert DataError("a.jsonl:3: not JSON").of("a.jsonl") == "a.jsonl:3: not JSON"
