"""The traffic log's SQLite file: its tables, and how rows go in and come out. Serving writes, training reads."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
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


def open_store(path: Path) -> sqlite3.Connection:
    """Open a log for writing, made where it is missing. Raises sqlite3.Error or OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
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


def forget(database: sqlite3.Connection, before_us: int, keep_rows: int) -> int:
    """Drop records that arrived before `before_us`, and the oldest beyond `keep_rows`; returns how many."""
    with database:
        old = database.execute("DELETE FROM traffic WHERE arrival_us < ?", (before_us,)).rowcount
        surplus = database.execute(
            "DELETE FROM traffic WHERE request_id IN "
            "(SELECT request_id FROM traffic ORDER BY arrival_us DESC LIMIT -1 OFFSET ?)",
            (keep_rows,),
        ).rowcount
    return old + surplus


def read_records(path: Path, since_us: int = 0) -> Iterator[TrafficRecord]:
    """Records that arrived at `since_us` or later, oldest first. Raises sqlite3.Error where it is no log."""
    with _reading(path) as database:
        query = "SELECT record FROM traffic WHERE arrival_us >= ? ORDER BY arrival_us, request_id"
        for (blob,) in database.execute(query, (since_us,)):
            yield msgspec.json.decode(blob, type=TrafficRecord)


def read_schemas(path: Path) -> dict[str, tuple[str, ...]]:
    """Feature names by schema id. Raises sqlite3.Error where it is no log."""
    with _reading(path) as database:
        return {key: tuple(json.loads(names)) for key, names in database.execute("SELECT * FROM schemas")}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        yield database
    finally:
        database.close()
