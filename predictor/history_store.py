"""The history's SQLite file: statistics by key, so that a restart forgets nothing that was learned."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from predictor.history import LengthStats

# Raised whenever keys or statistics change their meaning: what an older version saved is then forgotten.
_VERSION: Final = 1
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS history "
    "(key TEXT PRIMARY KEY, finished_at_s REAL NOT NULL, stats BLOB NOT NULL)"
)
_INDEX: Final = "CREATE INDEX IF NOT EXISTS history_by_time ON history (finished_at_s)"


class SavedStats(NamedTuple):
    """One key's statistics as they were at one moment."""

    key: str
    finished_at_s: float
    stats: bytes


def pack(rows: Iterable[tuple[str, LengthStats]]) -> list[SavedStats]:
    """Copies of live statistics, for another thread to write."""
    return [SavedStats(key, stats.finished_at_s, msgspec.msgpack.encode(stats)) for key, stats in rows]


def save_history(path: Path, rows: Iterable[SavedStats], keep: int) -> None:
    """Write statistics over older ones of their keys, and drop all but the `keep` latest keys.

    Raises sqlite3.Error or OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _open(path) as database, database:
        database.executemany("INSERT OR REPLACE INTO history VALUES (?, ?, ?)", rows)
        database.execute(
            "DELETE FROM history WHERE key IN "
            "(SELECT key FROM history ORDER BY finished_at_s DESC LIMIT -1 OFFSET ?)",
            (keep,),
        )


def load_history(path: Path) -> list[tuple[str, LengthStats]]:
    """All that was saved, longest ago first; nothing where there is no file. Raises sqlite3.Error."""
    if not path.exists():
        return []
    with _open(path) as database:
        return list(_readable(database.execute("SELECT * FROM history ORDER BY finished_at_s")))


def _readable(rows: Iterable[tuple[str, float, bytes]]) -> Iterator[tuple[str, LengthStats]]:
    for key, _, blob in rows:
        with contextlib.suppress(msgspec.DecodeError):  # one damaged row costs one key
            yield key, msgspec.msgpack.decode(blob, type=LengthStats)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            database.execute("DROP TABLE IF EXISTS history")
            database.execute(f"PRAGMA user_version={_VERSION}")
        database.execute(_TABLE)
        database.execute(_INDEX)
        yield database
    finally:
        database.close()
