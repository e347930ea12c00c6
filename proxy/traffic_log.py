"""The traffic log: one row per request, written by a thread that no request ever waits for."""

import logging
import queue
import sqlite3
import threading
from pathlib import Path
from typing import Final

from predictor.features.schema import Schema
from predictor.records import TrafficRecord
from predictor.traffic_store import forget, open_store, write_records

_LOG: Final = logging.getLogger("headway.traffic")
_BATCH: Final = 512
_FLUSH_S: Final = 0.5
_QUEUE: Final = 100_000
# Old rows are dropped after so many new ones: often enough for a bound, seldom enough to cost nothing.
_FORGET_EVERY: Final = 10_000
_DAY_US: Final = 24 * 3600 * 10**6

_Entry = tuple[TrafficRecord, Schema | None]


class TrafficLog:
    """A bounded queue before a writer thread. `dropped` counts what did not fit or could not be written."""

    def __init__(self, path: Path, *, keep_days: float = 30.0, keep_rows: int = 2_000_000) -> None:
        """Opens or makes the database; raises sqlite3.Error or OSError where that fails."""
        self._path = path
        self._keep_us = keep_days * _DAY_US
        self._keep_rows = keep_rows
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._since_forgotten = 0
        self.dropped = 0
        self.written = 0
        open_store(path).close()
        self._thread = threading.Thread(target=self._run, name="traffic-log", daemon=True)
        self._thread.start()

    def put(self, record: TrafficRecord, schema: Schema | None = None) -> None:
        """Hand over one record, with the schema of its features; never waits. A full queue drops it."""
        if self._queue.qsize() >= _QUEUE:
            self.dropped += 1
            return
        self._queue.put((record, schema))

    def close(self) -> None:
        """Write what is queued and stop the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        database = open_store(self._path)
        going_on = True
        while going_on:
            batch, going_on = self._next_batch()
            if batch:
                self._write(database, batch)
        database.close()

    def _next_batch(self) -> tuple[list[_Entry], bool]:
        """Wait for one record, then gather what comes within the flush interval; False at the end."""
        first = self._queue.get()
        if first is None:
            return [], False
        batch = [first]
        while len(batch) < _BATCH:
            try:
                entry = self._queue.get(timeout=_FLUSH_S)
            except queue.Empty:
                break
            if entry is None:
                return batch, False
            batch.append(entry)
        return batch, True

    def _write(self, database: sqlite3.Connection, batch: list[_Entry]) -> None:
        records = [record for record, _ in batch]
        schemas = {schema.id: schema.names for _, schema in batch if schema is not None}
        try:
            write_records(database, records, schemas)
            self._forget(database, records[-1].arrival_us)
        except sqlite3.Error as error:
            # A full disk or a locked file must not stop serving: count the loss and say so.
            self.dropped += len(records)
            _LOG.error("lost %d traffic records: %s", len(records), error)
        else:
            self.written += len(records)

    def _forget(self, database: sqlite3.Connection, now_us: int) -> None:
        self._since_forgotten += 1
        if self._since_forgotten * _BATCH >= _FORGET_EVERY:
            self._since_forgotten = 0
            forget(database, int(now_us - self._keep_us), self._keep_rows)
