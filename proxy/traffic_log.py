"""The traffic log: one row per request, written by a thread that no request ever waits for."""

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from predictor.features.schema import Schema
from predictor.records import TrafficRecord
from predictor.traffic_store import forget, is_damaged, open_store, used_bytes, write_records
from proxy.clock import Clock
from proxy.damaged_log import forget_aside, set_aside
from proxy.settings import Settings

_LOG: Final = logging.getLogger("headway.traffic")
_BATCH: Final = 128
_FLUSH_S: Final = 0.5
_QUEUE: Final = 100_000
# With prompts in them (`text_mode = full`) records are some ten times as large, or a hundred.
_QUEUE_WITH_TEXT: Final = 5_000
# Old rows are dropped at the start, every hour and after so many new ones: often enough for the bounds of age and
# number, seldom enough to cost nothing.
_FORGET_EVERY_S: Final = 3600.0
_FORGET_EVERY: Final = 10_000
# A file that is damaged again so soon tells of a bad disk: more files would help nobody.
_ANEW_EVERY_S: Final = 60.0
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

    def __init__(
        self,
        path: Path,
        *,
        keep_days: float = 30.0,
        keep_rows: int = 2_000_000,
        keep_bytes: int = 2 << 30,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        """Opens or makes the database; raises sqlite3.Error or OSError where that fails. `now_s` is Unix time, by
        default the wall's of now and what passes since: a step of the wall must not age all rows at once.

        A file that is no database any more is moved aside: its loss must not keep the proxy from serving.
        """
        self._path = path
        self._keep_us = keep_days * _DAY_US
        self._keep_rows = keep_rows
        self._keep_bytes = keep_bytes
        clock = Clock()
        self._now_s = now_s or (lambda: clock.now_us() / 1e6)
        self._queue: deque[_Entry] = deque()
        self._closing = threading.Event()
        self._database: sqlite3.Connection | None = None  # the thread's alone
        self._forget_at_s = self._now_s()
        self._since_forgotten = 0
        self._stuck = False
        self._said = False
        self._anew_at_s = -_ANEW_EVERY_S
        self.dropped = 0
        self.written = 0
        _open_or_begin_anew(path).close()
        self._thread = threading.Thread(target=self._run, name="traffic-log", daemon=True)
        self._thread.start()

    def put(self, record: TrafficRecord, schema: Schema | None = None) -> None:
        """Hand over one record, with the schema of its features; never waits. A full queue drops it."""
        if len(self._queue) >= (_QUEUE if record.body is None else _QUEUE_WITH_TEXT):
            self.dropped += 1
            return
        # Nobody is woken: a thread that ran once per request would take the interpreter from the event loop.
        self._queue.append((record, schema))

    def close(self) -> None:
        """Write what is queued and stop the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(_FLUSH_S)
            self._stuck = False
            if self._now_s() >= self._forget_at_s:
                self._write([])
            while not self._stuck and (batch := self._next_batch()):
                self._write(batch)
        self._let_go()
        if self._queue:
            self.dropped += len(self._queue)
            _LOG.error("%d traffic records are lost: %s could not be written", len(self._queue), self._path)

    def _next_batch(self) -> list[_Entry]:
        return [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]

    def _write(self, batch: list[_Entry]) -> None:
        """Write a batch, and forget what is due; with an empty one only that.

        A full disk, a locked or damaged file must not stop serving. What may be over soon is waited for; a loss
        is counted and said.
        """
        try:
            self._store(batch)
        except (sqlite3.OperationalError, OSError) as error:
            self._wait_with(batch, error)
        except sqlite3.Error as error:
            if is_damaged(error):
                self._begin_anew_with(batch, error)
            else:
                self._lose(batch, error)
        except (OverflowError, ValueError) as error:
            if len(batch) == 1:
                self._lose(batch, error)
            else:
                # One of them holds what no column takes; the others need not go with it.
                for entry in batch:
                    self._write([entry])
        else:
            self._say_written(batch)

    def _store(self, batch: list[_Entry]) -> None:
        if not self._path.exists():
            # SQLite would go on writing a file that nobody can find any more.
            self._let_go()
        database = self._database = self._database or open_store(self._path)
        if batch:
            schemas = {schema.id: schema.names for _, schema in batch if schema is not None}
            write_records(database, [record for record, _ in batch], schemas)
        self._since_forgotten += len(batch)
        self._forget(database)

    def _forget(self, database: sqlite3.Connection) -> None:
        """Drop what is too old or too much: by the clock, after many new rows, and whenever the file is too large."""
        now_s = self._now_s()
        due = now_s >= self._forget_at_s or self._since_forgotten >= _FORGET_EVERY
        if due or used_bytes(database) > self._keep_bytes:
            # Noted before it is done: where it fails, the next batch is written all the same.
            self._forget_at_s = now_s + _FORGET_EVERY_S
            self._since_forgotten = 0
            forget(database, self._before_us(), self._keep_rows, self._keep_bytes)
            self._forget_aside()

    def _forget_aside(self) -> None:
        forget_aside(self._path, self._before_us() / 1e6, self._keep_bytes)

    def _before_us(self) -> int:
        return int(max(0.0, self._now_s() * 1e6 - self._keep_us))

    def _let_go(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _say_written(self, batch: list[_Entry]) -> None:
        self.written += len(batch)
        if batch and self._said:
            self._said = False
            _LOG.warning("the traffic log %s is written again, %d records are lost", self._path, self.dropped)

    def _lose(self, batch: list[_Entry], error: Exception) -> None:
        self._let_go()
        self.dropped += len(batch)
        _LOG.error("lost %d traffic records: %s", len(batch), error)

    def _begin_anew_with(self, batch: list[_Entry], error: sqlite3.Error) -> None:
        """Move a damaged file aside and put the batch back for a new one; where that was just done, wait."""
        if self._now_s() < self._anew_at_s + _ANEW_EVERY_S:
            self._wait_with(batch, error)
            return
        self._let_go()
        try:
            set_aside(self._path, error)
            self._forget_aside()
        except OSError as problem:
            self._wait_with(batch, problem)
            return
        self._anew_at_s = self._now_s()
        self._queue.extendleft(reversed(batch))

    def _wait_with(self, batch: list[_Entry], error: Exception) -> None:
        """Put a batch back until the next flush, and say so once."""
        self._let_go()
        self._queue.extendleft(reversed(batch))
        self._stuck = True
        if not self._said:
            self._said = True
            _LOG.error("the traffic log %s cannot be written, records wait: %s", self._path, error)


def open_log(settings: Settings) -> TrafficLog:
    """The log under the state directory; raises sqlite3.Error or OSError where it cannot be made."""
    return TrafficLog(
        Path(settings.state) / "traffic.db",
        keep_days=settings.traffic_log_days,
        keep_rows=settings.traffic_log_rows,
        keep_bytes=settings.traffic_log_bytes,
    )


def _open_or_begin_anew(path: Path) -> sqlite3.Connection:
    try:
        return open_store(path)
    except sqlite3.DatabaseError as error:
        if not is_damaged(error):
            raise
        set_aside(path, error)
        return open_store(path)
