"""The traffic log's SQLite file: its tables, and how rows go in and come out. Serving writes, training reads."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from predictor.records import TrafficRecord

_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS traffic (request_id TEXT PRIMARY KEY, arrival_us INTEGER NOT NULL, "
    "outcome TEXT NOT NULL, output_tokens INTEGER, record BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS traffic_by_arrival ON traffic (arrival_us)",
    "CREATE TABLE IF NOT EXISTS schemas (id TEXT PRIMARY KEY, names TEXT NOT NULL)",
)
_INSERT: Final = "INSERT OR REPLACE INTO traffic VALUES "
_ROW: Final = "(?, ?, ?, ?, ?)"
_ROWS_PER_STATEMENT: Final = 1_000
# A log that is too large shrinks to this share of its bound, so that not every batch must make room for the next.
_ROOM: Final = 0.9
# Pages of one transaction that gives space back, and bytes to which the file of transactions is cut back.
_VACUUM_PAGES: Final = 1_000
_JOURNAL_BYTES: Final = 16 << 20


def open_store(path: Path) -> sqlite3.Connection:
    """Open a log for writing, made where it is missing. Raises sqlite3.Error or OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = sqlite3.connect(path)
    try:
        # Obeyed in a new file alone, and only before anything is in it.
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"PRAGMA journal_size_limit={_JOURNAL_BYTES}")
        database.execute("PRAGMA synchronous=NORMAL")
        # What is forgotten is gone: with `text_mode = full` rows hold prompts.
        database.execute("PRAGMA secure_delete=FAST")
        for statement in _TABLES:
            database.execute(statement)
    except sqlite3.Error:
        database.close()
        raise
    return database


def write_records(
    database: sqlite3.Connection, records: Sequence[TrafficRecord], schemas: Mapping[str, Sequence[str]]
) -> None:
    """Add records and the names of their features by schema id, in one transaction. Raises sqlite3.Error."""
    rows = [
        (one.request_id, one.arrival_us, one.outcome.value, one.output_tokens, msgspec.json.encode(one))
        for one in records
    ]
    names = [(name, json.dumps(list(columns))) for name, columns in schemas.items()]
    with database:
        # One statement for many: sqlite3 hands the interpreter to other threads and waits for it at every one.
        for start in range(0, len(rows), _ROWS_PER_STATEMENT):
            some = rows[start : start + _ROWS_PER_STATEMENT]
            database.execute(
                _INSERT + ", ".join([_ROW] * len(some)), [value for row in some for value in row]
            )
        database.executemany("INSERT OR IGNORE INTO schemas VALUES (?, ?)", names)


def forget(database: sqlite3.Connection, before_us: int, keep_rows: int, keep_bytes: int) -> int:
    """Drop records that arrived before `before_us`, and the oldest beyond `keep_rows` and `keep_bytes`.

    Returns how many. Their space goes back to the file system, but for files of older versions: these stay as
    large as they are, and new rows are written where the old ones were. Raises sqlite3.Error.
    """
    with database:
        gone = database.execute("DELETE FROM traffic WHERE arrival_us < ?", (before_us,)).rowcount
        gone += _forget_oldest(database, _rows(database) - keep_rows)
        while (used := used_bytes(database)) > keep_bytes and (rows := _rows(database)):
            gone += _forget_oldest(database, max(1, round(rows * (1 - _ROOM * keep_bytes / used))))
    _give_back(database)
    return gone


def used_bytes(database: sqlite3.Connection) -> int:
    """Bytes of the file that hold something; free pages are written again before it grows."""
    (used,) = database.execute(
        "SELECT (page_count - freelist_count) * page_size "
        "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    ).fetchone()
    return int(used)


def _rows(database: sqlite3.Connection) -> int:
    (rows,) = database.execute("SELECT count(*) FROM traffic").fetchone()
    return int(rows)


def _forget_oldest(database: sqlite3.Connection, count: int) -> int:
    """Drop so many of the oldest records, none where `count` is negative; returns how many."""
    return database.execute(
        "DELETE FROM traffic WHERE rowid IN (SELECT rowid FROM traffic ORDER BY arrival_us LIMIT ?)",
        (max(0, count),),
    ).rowcount


def _give_back(database: sqlite3.Connection) -> None:
    """Cut free pages off the file, some at a time: one transaction for all would itself fill the disk."""
    free, before = _free_pages(database), -1
    while free not in {0, before}:
        database.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
        free, before = _free_pages(database), free


def _free_pages(database: sqlite3.Connection) -> int:
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    return int(free)


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is no sound database; waiting mends that no more than trying again."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def read_records(
    path: Path, since_us: int = 0, *, unreadable: Callable[[], None] = lambda: None
) -> Iterator[TrafficRecord]:
    """Records that arrived at `since_us` or later, oldest first; `unreadable` is called for each that is none.

    Raises sqlite3.Error where the file is no log or is damaged.
    """
    with _reading(path) as database:
        query = "SELECT record FROM traffic WHERE arrival_us >= ? ORDER BY arrival_us, request_id"
        for (blob,) in database.execute(query, (since_us,)):
            try:
                record = msgspec.json.decode(blob, type=TrafficRecord)
            except (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError):
                unreadable()  # one damaged row costs one request
            else:
                yield record


def read_schemas(path: Path) -> dict[str, tuple[str, ...]]:
    """Feature names by schema id. Raises sqlite3.Error where it is no log."""
    with _reading(path) as database:
        return {key: names_of(data) for key, data in database.execute("SELECT * FROM schemas")}


def names_of(data: str | bytes) -> tuple[str, ...]:
    """The feature names of one schema; none where damage has left no list of names, which costs its rows alone."""
    try:
        return msgspec.json.decode(data, type=tuple[str, ...])
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError):
        return ()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    path = path.resolve()
    # SQLite wants to make files beside a WAL database, even to read it. Where it may not and nobody writes, as in a
    # copy on a read-only volume, the file is all there is.
    alone = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro{'&immutable=1' if alone else ''}", uri=True)
    try:
        yield database
    finally:
        database.close()
