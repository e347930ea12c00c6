"""The traffic log: one row per request, written by a thread that no request ever waits for."""

import contextlib
import itertools
import logging
import sqlite3
import threading
from collections import deque
from pathlib import Path
from typing import Final, Protocol

from predictor.features.schema import Schema
from predictor.records import TrafficRecord
from predictor.traffic_store import forget, open_store, write_records
from proxy.settings import Settings

_LOG: Final = logging.getLogger("headway.traffic")
_BATCH: Final = 128
_FLUSH_S: Final = 0.5
_QUEUE: Final = 100_000
# Old rows are dropped after so many new ones: often enough for a bound, seldom enough to cost nothing.
_FORGET_EVERY: Final = 10_000
_DAY_US: Final = 24 * 3600 * 10**6


class TrafficSink(Protocol):
    """Takes the records of ended requests, and loses none without counting it."""

    @property
    def dropped(self) -> int:
        """Records that are lost."""
        ...

    @property
    def written(self) -> int:
        """Records that are kept."""
        ...

    def put(self, record: TrafficRecord, schema: Schema | None = None) -> None:
        """Hand over one record, with the schema of its features; never waits."""
        ...


_Entry = tuple[TrafficRecord, Schema | None]


class TrafficLog:
    """A bounded queue before a writer thread. While the file cannot be written (a full disk, a lock) records wait
    there; `dropped` counts what did not fit, what no column takes, and what was still unwritten at the end."""

    def __init__(self, path: Path, *, keep_days: float = 30.0, keep_rows: int = 2_000_000) -> None:
        """Opens or makes the database; raises sqlite3.Error or OSError where that fails.

        A file that is no database any more is moved aside: its loss must not keep the proxy from serving.
        """
        self._path = path
        self._keep_us = keep_days * _DAY_US
        self._keep_rows = keep_rows
        self._queue: deque[_Entry] = deque()
        self._closing = threading.Event()
        self._since_forgotten = 0
        self._stuck = False
        self._said = False
        self.dropped = 0
        self.written = 0
        _open_or_begin_anew(path).close()
        self._thread = threading.Thread(target=self._run, name="traffic-log", daemon=True)
        self._thread.start()

    def put(self, record: TrafficRecord, schema: Schema | None = None) -> None:
        """Hand over one record, with the schema of its features; never waits. A full queue drops it."""
        if len(self._queue) >= _QUEUE:
            self.dropped += 1
            return
        # Nobody is woken: a thread that ran once per request would take the interpreter from the event loop.
        self._queue.append((record, schema))

    def close(self) -> None:
        """Write what is queued and stop the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        database: sqlite3.Connection | None = None
        closing = False
        while not closing:
            closing = self._closing.wait(_FLUSH_S)
            self._stuck = False
            while not self._stuck and (batch := self._next_batch()):
                database = self._write(database, batch)
        if database is not None:
            database.close()
        if self._queue:
            self.dropped += len(self._queue)
            _LOG.error("%d traffic records are lost: %s could not be written", len(self._queue), self._path)

    def _next_batch(self) -> list[_Entry]:
        return [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]

    def _write(self, database: sqlite3.Connection | None, batch: list[_Entry]) -> sqlite3.Connection | None:
        """Write a batch; gives the connection to go on with, None where a new one is needed.

        A full disk, a locked or damaged file must not stop serving. What may be over soon is waited for; a loss
        is counted and said.
        """
        records = [record for record, _ in batch]
        schemas = {schema.id: schema.names for _, schema in batch if schema is not None}
        try:
            if database is not None and not self._path.exists():
                # SQLite would go on writing a file that nobody can find any more.
                database.close()
                database = None
            database = database or open_store(self._path)
            write_records(database, records, schemas)
            self._since_forgotten += len(records)
            self._forget(database, records[-1].arrival_us)
        except (sqlite3.OperationalError, OSError) as error:
            self._wait_with(batch, error)
            if database is not None:
                database.close()
            return None
        except (sqlite3.Error, OverflowError, ValueError) as error:
            if len(batch) > 1 and isinstance(error, OverflowError | ValueError):
                # One of them holds what no column takes; the others need not go with it.
                for entry in batch:
                    database = self._write(database, [entry])
                return database
            self.dropped += len(batch)
            _LOG.error("lost %d traffic records: %s", len(batch), error)
            if database is not None:
                database.close()
            return None
        self.written += len(batch)
        if self._said:
            self._said = False
            _LOG.warning("the traffic log %s is written again, %d records are lost", self._path, self.dropped)
        return database

    def _wait_with(self, batch: list[_Entry], error: Exception) -> None:
        """Put a batch back until the next flush, and say so once."""
        self._queue.extendleft(reversed(batch))
        self._stuck = True
        if not self._said:
            self._said = True
            _LOG.error("the traffic log %s cannot be written, records wait: %s", self._path, error)

    def _forget(self, database: sqlite3.Connection, now_us: int) -> None:
        if self._since_forgotten >= _FORGET_EVERY:
            self._since_forgotten = 0
            forget(database, int(now_us - self._keep_us), self._keep_rows)


def open_log(settings: Settings) -> TrafficLog:
    """The log under the state directory; raises sqlite3.Error or OSError where it cannot be made."""
    return TrafficLog(
        Path(settings.state) / "traffic.db",
        keep_days=settings.traffic_log_days,
        keep_rows=settings.traffic_log_rows,
    )


def _open_or_begin_anew(path: Path) -> sqlite3.Connection:
    try:
        return open_store(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        aside = next(
            name for number in itertools.count(1) if not (name := Path(f"{path}.broken-{number}")).exists()
        )
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
        _LOG.error("%s cannot be read (%s): moved to %s, a new log begins", path, error, aside)
        return open_store(path)
