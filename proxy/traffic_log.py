"""The traffic log: one SQLite row per request, written by a thread that no request ever waits for."""

import logging
import queue
import sqlite3
import threading
from pathlib import Path
from typing import Final

import msgspec

from predictor.records import TrafficRecord

_LOG: Final = logging.getLogger("headway.traffic")
_BATCH: Final = 512
_FLUSH_S: Final = 0.5
_QUEUE: Final = 100_000
_COLUMNS: Final = ("request_id", "arrival_us", "outcome", "output_tokens", "record")
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS traffic (request_id TEXT PRIMARY KEY, arrival_us INTEGER NOT NULL, "
    "outcome TEXT NOT NULL, output_tokens INTEGER, record BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS traffic_by_arrival ON traffic (arrival_us)",
)


class TrafficLog:
    """A bounded queue in front of a writer thread. `dropped` counts what was lost."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the database; raises sqlite3.Error or OSError where that fails."""
        self._path = path
        self._queue: queue.SimpleQueue[TrafficRecord | None] = queue.SimpleQueue()
        self.dropped = 0
        self.written = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA journal_mode=WAL")
            for statement in _SCHEMA:
                database.execute(statement)
        self._thread = threading.Thread(target=self._run, name="traffic-log", daemon=True)
        self._thread.start()

    def put(self, record: TrafficRecord) -> None:
        """Hand over one record; never waits. A full queue drops it and counts."""
        if self._queue.qsize() >= _QUEUE:
            self.dropped += 1
            return
        self._queue.put(record)

    def close(self) -> None:
        """Write what is queued and stop the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        database = sqlite3.connect(self._path)
        database.execute("PRAGMA synchronous=NORMAL")
        open_ = True
        while open_:
            batch, open_ = self._next_batch()
            if batch:
                self._write(database, batch)
        database.close()

    def _next_batch(self) -> tuple[list[TrafficRecord], bool]:
        """Wait for one record, then gather what comes within the flush interval; False at the end."""
        first = self._queue.get()
        if first is None:
            return [], False
        batch = [first]
        while len(batch) < _BATCH:
            try:
                record = self._queue.get(timeout=_FLUSH_S)
            except queue.Empty:
                break
            if record is None:
                return batch, False
            batch.append(record)
        return batch, True

    def _write(self, database: sqlite3.Connection, batch: list[TrafficRecord]) -> None:
        rows = [
            (r.request_id, r.arrival_us, r.outcome.value, r.output_tokens, msgspec.json.encode(r))
            for r in batch
        ]
        marks = ",".join("?" * len(_COLUMNS))
        try:
            with database:
                database.executemany(
                    f"INSERT OR REPLACE INTO traffic ({','.join(_COLUMNS)}) VALUES ({marks})", rows
                )
            self.written += len(rows)
        except sqlite3.Error as error:
            # A full disk or a locked file must not stop serving: count the loss and say so.
            self.dropped += len(rows)
            _LOG.error("lost %d traffic records: %s", len(rows), error)


def read_records(path: Path) -> list[TrafficRecord]:
    """Every record of a log, oldest first. Raises sqlite3.Error where it is no such database."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = database.execute("SELECT record FROM traffic ORDER BY arrival_us, request_id").fetchall()
    finally:
        database.close()
    return [msgspec.json.decode(blob, type=TrafficRecord) for (blob,) in rows]
