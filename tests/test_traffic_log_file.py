"""The traffic log keeps what it may and no more, and damage to its file costs the rows that are there alone."""

import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest
from harness import CHAT, eventually

from predictor.records import Outcome, TrafficRecord
from predictor.traffic_store import open_store, read_records, write_records
from proxy.clock import Clock
from proxy.traffic_log import TrafficLog

DAY_S = 86_400
PAGE = 4096


def record(number: int = 0, **fields: object) -> TrafficRecord:
    """A row."""
    return TrafficRecord(f"r{number:06}", number, CHAT, Outcome.COMPLETED, **fields)  # type: ignore[arg-type]


def rows_in(path: Path) -> int:
    """How many rows there are."""
    return len(list(read_records(path)))


async def test_a_quiet_log_forgets_by_the_clock(tmp_path: Path) -> None:
    """Rows go when their days are over, at the start and every hour, though none come."""
    path, now_s = tmp_path / "traffic.db", [3.0 * DAY_S]
    with contextlib.closing(open_store(path)) as database:
        write_records(database, [record(day) for day in range(4)], {})
        with database:
            database.execute(f"UPDATE traffic SET arrival_us = arrival_us * {DAY_S} * 1000000")
    log = TrafficLog(path, keep_days=1.5, now_s=lambda: now_s[0])
    await eventually(lambda: rows_in(path) == 2)
    now_s[0] += 0.6 * DAY_S
    await eventually(lambda: rows_in(path) == 1)
    log.close()
    assert (log.written, log.dropped) == (0, 0)


def test_a_wall_that_jumps_ages_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set a year ahead while we run, and back again, must not cost the whole log."""
    wall_ns = [1_000 * DAY_S * 10**9]
    monkeypatch.setattr("proxy.traffic_log.Clock", lambda: Clock(wall_ns=lambda: wall_ns[0]))
    path = tmp_path / "traffic.db"
    log = TrafficLog(path, keep_days=30)
    log.put(record(999 * DAY_S * 10**6))
    wall_ns[0] += 365 * DAY_S * 10**9
    log.close()
    assert rows_in(path) == 1


def test_a_process_that_ends_at_once_forgets_all_the_same(tmp_path: Path) -> None:
    """A proxy that restarts often has a log of so many days too."""
    path = tmp_path / "traffic.db"
    with contextlib.closing(open_store(path)) as database:
        write_records(database, [record(1)], {})
    TrafficLog(path, keep_days=1, now_s=lambda: 2.0 * DAY_S).close()
    assert not rows_in(path)


def test_days_without_end_keep_every_row(tmp_path: Path) -> None:
    """However many days are asked for, no row goes for its age and none is lost."""
    path = tmp_path / "traffic.db"
    for number, days in enumerate((1e18, float("inf")), start=1):
        log = TrafficLog(path, keep_days=days)
        log.put(record(number))
        log.close()
        assert (rows_in(path), log.written, log.dropped) == (number, 1, 0)


def test_a_log_stays_within_its_bytes(tmp_path: Path) -> None:
    """However fast rows come, the file is as large as it may be and no larger; the latest rows are in it."""
    path = tmp_path / "traffic.db"
    log = TrafficLog(path, keep_bytes=1 << 20, now_s=lambda: 1.0)
    for number in range(3000):
        log.put(record(number, features=bytes(1236)))
    log.close()
    assert path.stat().st_size <= 1 << 20
    kept = [row.arrival_us for row in read_records(path)]
    assert kept == list(range(3000 - len(kept), 3000))
    assert len(kept) > 200


@pytest.mark.parametrize(
    "damage", [b"this is no database", b"SQLite format 3\0" + b"\xff" * 4000, b"\0" * 8192]
)
def test_a_damaged_log_is_moved_aside(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that cannot be read at the start is kept under another name, said, and a new one begins."""
    path = tmp_path / "traffic.db"
    for number in (1, 2):
        path.write_bytes(damage)
        log = TrafficLog(path)
        log.put(record(number))
        log.close()
        assert [row.arrival_us for row in read_records(path)] == [number]
        assert (tmp_path / f"traffic.db.broken-{number}").read_bytes() == damage
    assert "moved to" in caplog.text


def spoil(path: Path) -> None:
    """Damage every page of a log but the first, which has the header."""
    content = path.read_bytes()
    path.write_bytes(content[:PAGE] + b"\xff" * (len(content) - PAGE))


def test_a_log_with_damaged_pages_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pages that are damaged behind a sound header cost the rows that are there, and none that come; said once."""
    path = tmp_path / "traffic.db"
    with contextlib.closing(open_store(path)) as database:
        write_records(database, [record(number) for number in range(1000)], {})
    spoil(path)
    damaged = path.read_bytes()
    log = TrafficLog(path, now_s=lambda: 1.0)
    for number in range(300):
        log.put(record(number))
    log.close()
    assert [row.arrival_us for row in read_records(path)] == list(range(300))
    assert (log.written, log.dropped) == (300, 0)
    assert (tmp_path / "traffic.db.broken-1").read_bytes()[PAGE:] == damaged[PAGE:]
    assert caplog.text.count("moved to") == len(caplog.records) == 1


async def test_a_log_that_is_damaged_while_it_is_written_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage under way costs the rows that are there, and none that come."""
    path = tmp_path / "traffic.db"
    log = TrafficLog(path, now_s=lambda: 1.0)
    log.put(record(1))
    await eventually(lambda: log.written == 1)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        spoil(path)
    log.put(record(2))
    await eventually(lambda: log.written == 2)
    log.put(record(3))
    log.close()
    assert [row.arrival_us for row in read_records(path)] == [2, 3]
    assert (log.dropped, caplog.text.count("moved to")) == (0, 1)


async def test_a_disk_that_damages_every_file_gets_few_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged again at once, records wait; a minute later the next file is tried, and they are all in it."""
    path, now_s, bad = tmp_path / "traffic.db", [100.0], threading.Event()

    def spoiled(path: Path) -> sqlite3.Connection:
        if bad.is_set():
            open_store(path).close()
            spoil(path)
        return open_store(path)

    monkeypatch.setattr("proxy.traffic_log.open_store", spoiled)
    bad.set()
    log = TrafficLog(path, now_s=lambda: now_s[0])
    for number in range(5):
        log.put(record(number))
    await eventually(lambda: "records wait" in caplog.text)
    bad.clear()
    assert len(list(tmp_path.glob("*.broken-*[0-9]"))) == 1
    now_s[0] += 61
    await eventually(lambda: log.written == 5)
    log.close()
    assert [row.arrival_us for row in read_records(path)] == list(range(5))
    assert (log.dropped, caplog.text.count("moved to")) == (0, 2)


def set_aside(folder: Path) -> list[str]:
    """The damaged logs that are kept, oldest first."""
    return sorted(path.name.removeprefix("traffic.db.broken-") for path in folder.glob("*.broken-*"))


def test_of_damaged_logs_the_newest_few_are_kept(tmp_path: Path) -> None:
    """A file that is damaged again and again does not fill the disk; what else lies there is nobody's to delete."""
    path, other = tmp_path / "traffic.db", tmp_path / "traffic.db.broken-by-me"
    other.write_text("mine")
    for number in range(1, 6):
        path.write_bytes(b"no database")
        (tmp_path / "traffic.db-shm").write_bytes(b"")
        TrafficLog(path).close()
        assert set_aside(tmp_path)[-3] == f"{number}"
    assert set_aside(tmp_path) == ["3", "3-shm", "4", "4-shm", "5", "5-shm", "by-me"]


def test_damaged_logs_stay_within_the_logs_bytes(tmp_path: Path) -> None:
    """The newest is kept however large it is, older ones where there is room for them too."""
    path = tmp_path / "traffic.db"
    for size, kept in ((500_000, ["1"]), (400_000, ["1", "2"]), (5_000_000, ["3"]), (10, ["4"])):
        path.write_bytes(b"x" * size)
        TrafficLog(path, keep_bytes=1 << 20).close()
        assert set_aside(tmp_path) == kept


async def test_damaged_logs_go_when_the_logs_days_are_over(tmp_path: Path) -> None:
    """By the clock, as rows do."""
    path = tmp_path / "traffic.db"
    path.write_bytes(b"no database")
    now_s = [path.stat().st_mtime]
    log = TrafficLog(path, keep_days=1, now_s=lambda: now_s[0])
    log.put(record())
    await eventually(lambda: log.written == 1)
    assert set_aside(tmp_path) == ["1"]
    now_s[0] += 2 * DAY_S
    await eventually(lambda: not set_aside(tmp_path))
    log.close()
