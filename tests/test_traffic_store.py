"""The traffic log's file: rows and the names of their features in, the same rows out in order of arrival."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from predictor.records import Outcome, TrafficRecord
from predictor.traffic_store import (
    forget,
    open_store,
    read_records,
    read_schemas,
    used_bytes,
    write_records,
)

MIB = 1 << 20
FEATURES = bytes(1236)


def record(number: int, arrival_us: int | None = None, **fields: object) -> TrafficRecord:
    """A row."""
    at = number if arrival_us is None else arrival_us
    return TrafficRecord(f"r{number:06}", at, "/v1/completions", Outcome.COMPLETED, **fields)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is, in a directory that is not there yet."""
    return tmp_path / "state" / "traffic.db"


@pytest.fixture
def store(path: Path) -> Iterator[sqlite3.Connection]:
    """An open log."""
    with closing(open_store(path)) as database:
        yield database


@profile(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), min_size=1, max_size=40))
def test_rows_come_out_by_arrival_each_once(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]]
) -> None:
    """In whatever order they ended, and however often one was written: the last of each, by arrival."""
    path = tmp_path_factory.mktemp("log") / "traffic.db"
    with closing(open_store(path)) as database:
        for number, arrival_us in rows:
            write_records(database, [record(number, arrival_us)], {})
    last = {f"r{number:06}": arrival_us for number, arrival_us in rows}
    expected = sorted((arrival_us, name) for name, arrival_us in last.items())
    assert [(one.arrival_us, one.request_id) for one in read_records(path)] == expected


def test_features_come_back_under_their_names(store: sqlite3.Connection, path: Path) -> None:
    """A row names its schema, the log holds that schema's names: numbers mean something years later."""
    names = tuple(f"feature {number}" for number in range(300))
    row = record(1, schema="abc", features=b"\x00\x01\x02\x03" * 300)
    write_records(store, [row], {"abc": names})
    write_records(store, [record(2)], {"abc": ("renamed",), "def": ("other",)})
    assert next(read_records(path)) == row
    assert read_schemas(path) == {"abc": names, "def": ("other",)}


@pytest.mark.parametrize("damage", ['["a"', "", "7", "[1]", b"\xff", "[" * 100_000])
def test_damaged_names_cost_their_rows_alone(store: sqlite3.Connection, path: Path, damage: object) -> None:
    """Numbers that nobody can name any more are no features; all else of the log is read as before."""
    write_records(store, [record(1)], {"abc": ("a",), "def": ("b",)})
    with store:
        store.execute("UPDATE schemas SET names = ? WHERE id = 'abc'", (damage,))
    assert read_schemas(path) == {"abc": (), "def": ("b",)}
    assert len(list(read_records(path))) == 1


def test_a_reader_does_not_wait_for_the_writer(store: sqlite3.Connection, path: Path) -> None:
    """Training reads what was committed while serving is in the middle of a write."""
    write_records(store, [record(1)], {})
    store.execute("BEGIN IMMEDIATE")
    assert [one.request_id for one in read_records(path)] == ["r000001"]
    store.rollback()


def test_a_batch_is_written_whole_or_not_at_all(store: sqlite3.Connection, path: Path) -> None:
    """One row that no column takes: none of its batch is there, and the log goes on."""
    with pytest.raises(OverflowError):
        write_records(store, [record(1), record(2, arrival_us=2**70)], {})
    assert not list(read_records(path))
    write_records(store, [record(3)], {})
    assert len(list(read_records(path))) == 1


def test_nothing_to_write_is_no_error(store: sqlite3.Connection, path: Path) -> None:
    """An empty batch, or one of more rows than a statement has places for, is written like any other."""
    write_records(store, [], {"abc": ("a",)})
    write_records(store, [record(number) for number in range(10_000)], {})
    assert sum(1 for _ in read_records(path)) == 10_000
    assert read_schemas(path) == {"abc": ("a",)}


def test_old_rows_and_rows_beyond_the_bound_are_forgotten(store: sqlite3.Connection, path: Path) -> None:
    """By age and by number, the oldest first; it says how many went."""
    write_records(store, [record(number) for number in range(100)], {})
    assert forget(store, before_us=10, keep_rows=1000, keep_bytes=MIB) == 10
    assert forget(store, before_us=0, keep_rows=30, keep_bytes=MIB) == 60
    assert [one.arrival_us for one in read_records(path)] == list(range(70, 100))


def test_a_file_that_is_too_large_shrinks_and_the_oldest_go(store: sqlite3.Connection, path: Path) -> None:
    """Rows beyond the bound of bytes are forgotten, not many more than that, and the disk has their space again."""
    write_records(store, [record(number, features=FEATURES) for number in range(3000)], {})
    gone = forget(store, before_us=0, keep_rows=3000, keep_bytes=MIB)
    store.close()
    assert 0.7 * MIB < path.stat().st_size <= MIB
    assert [one.arrival_us for one in read_records(path)] == list(range(gone, 3000))


def test_a_bound_that_no_row_fits_in_ends_with_none(store: sqlite3.Connection, path: Path) -> None:
    """Where one row is larger than all that may be kept the log is empty, and forgetting comes to an end."""
    write_records(store, [record(1, features=FEATURES)], {})
    assert forget(store, before_us=0, keep_rows=10, keep_bytes=1) == 1
    assert not list(read_records(path))


def test_a_file_of_an_older_version_is_written_over(path: Path) -> None:
    """A file that cannot shrink counts its free pages as free, and new rows do not make it grow."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE other (x)")
    rows = [record(number, features=FEATURES) for number in range(3000)]
    sizes = []
    for _ in range(3):
        with closing(open_store(path)) as database:
            write_records(database, rows, {})
            assert forget(database, before_us=0, keep_rows=3000, keep_bytes=MIB) > 1500
            assert used_bytes(database) <= MIB
        sizes.append(path.stat().st_size)
    assert sizes[0] > 4 * MIB
    assert sizes[2] <= 1.2 * sizes[0]


def test_what_is_forgotten_is_nowhere_in_the_file(store: sqlite3.Connection, path: Path) -> None:
    """Rows may hold prompts: no byte of them outlives their days."""
    write_records(store, [record(number, tenant=f"canary{number}") for number in range(500)], {})
    forget(store, before_us=400, keep_rows=500, keep_bytes=MIB)
    store.close()
    content = path.read_bytes()
    assert [number for number in range(500) if b'"canary%d"' % number in content] == list(range(400, 500))


def test_a_row_that_is_no_record_costs_itself_alone(store: sqlite3.Connection, path: Path) -> None:
    """The others are read, and the caller is told of each that is none."""
    write_records(store, [record(number) for number in range(5)], {})
    broken = [b"", b'{"request_id": "\xff"}', 7]
    with store:
        for number, blob in enumerate(broken, start=1):
            store.execute("UPDATE traffic SET record = ? WHERE arrival_us = ?", (blob, number))
    told: list[None] = []
    rows = read_records(path, unreadable=lambda: told.append(None))
    assert [one.arrival_us for one in rows] == [0, 4]
    assert len(told) == len(broken)


def test_a_reader_can_begin_at_a_time(store: sqlite3.Connection, path: Path) -> None:
    """Retraining reads the last days and not the whole log."""
    write_records(store, [record(number) for number in range(10)], {})
    assert [one.arrival_us for one in read_records(path, since_us=7)] == [7, 8, 9]


def test_a_log_outlives_its_process(path: Path) -> None:
    """Opened again it has what was in it."""
    for number in range(3):
        with closing(open_store(path)) as database:
            write_records(database, [record(number)], {})
    assert len(list(read_records(path))) == 3


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 9, b""])
def test_what_is_no_log_is_an_error_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    """A reader says so, and neither makes nor changes a file."""
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(sqlite3.Error):
        list(read_records(path))
    assert path.read_bytes() == content
    with pytest.raises(sqlite3.Error):
        read_schemas(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_a_path_may_hold_what_an_address_may_not(tmp_path: Path) -> None:
    """A question mark, a hash or a per cent sign in a directory's name leads nowhere else."""
    path = tmp_path / "50% off? yes #1" / "traffic.db"
    with closing(open_store(path)) as database:
        write_records(database, [record(1)], {})
    assert len(list(read_records(path))) == 1


def test_a_state_directory_is_its_owners_alone(tmp_path: Path) -> None:
    """What was learned of prompts, hashed or whole, is nobody else's on the machine to read."""
    with closing(open_store(tmp_path / "state" / "traffic.db")):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_log_on_a_read_only_volume_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a log beside which SQLite may make no file gives its rows all the same, and stays alone."""
    with closing(open_store(path)) as database:
        write_records(database, [record(1), record(2)], {"s": ["a", "b"]})
    monkeypatch.setattr(os, "access", lambda place, mode: (place, mode) != (path.parent, os.W_OK))
    assert [one.request_id for one in read_records(path)] == ["r000001", "r000002"]
    assert read_schemas(path) == {"s": ("a", "b")}
    assert [one.name for one in path.parent.iterdir()] == ["traffic.db"]
