"""Where rows come from: `--from` and `--on` name a lengths file, a Parquet table or a traffic log."""

import gzip
import hashlib
import json
import logging
import os
import re
import sqlite3
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import redis

from predictor.records import CUT, Outcome, TrafficRecord
from predictor.redis_address import SCHEMES, RedisAddress, said
from predictor.traffic_store import read_records, read_schemas
from predictor.traffic_stream import read_stream

_LOG: Final = logging.getLogger("headway.training")
# Of a traffic log so many answers, the latest: memory is bounded by that, however long the log.
LATEST_ANSWERS: Final = 30_000
# The clocks of proxies and trainers may differ by so much.
_SKEW_S: Final = 60.0
Row = dict[str, Any]


class DataError(Exception):
    """Data that cannot be used; the message names the file, the line where there is one, and the remedy."""

    def of(self, source: str) -> str:
        """The message, with the source's name before it where it is about all of the rows and names none."""
        name = shown(source)
        return str(self) if name in str(self) else f"{name}: {self}"


class SourceRow(NamedTuple):
    """One row and where it stands, for messages."""

    location: str
    row: Row


class LoggedRequest(NamedTuple):
    """One request of a traffic log and where it stands; `names` of its features, empty where it has none."""

    location: str
    record: TrafficRecord
    names: tuple[str, ...]


class _Damage:
    """Rows of a log that are no records, beside those that are."""

    def __init__(self) -> None:
        self._damaged = 0
        self._sound = 0

    def add(self) -> None:
        self._damaged += 1

    def sound(self) -> int:
        """One more that is sound; its number."""
        self._sound += 1
        return self._sound

    def say(self, name: str) -> None:
        """Warn of those left out; raises DataError where no row is sound."""
        if self._damaged and not self._sound:
            raise DataError(f"{name}: not a readable traffic log: none of {self._damaged} rows is a record")
        if self._damaged:
            _LOG.warning("%s: damaged rows left out: %d", name, self._damaged)


def read_source(
    source: str,
    latest: int = LATEST_ANSWERS,
    lost: Callable[[TrafficRecord], None] = lambda _: None,
) -> Iterator[SourceRow]:
    """Rows of a SRC: `sqlite:///f.db`, `redis://…`, `*.jsonl`, `*.jsonl.gz` or `*.parquet`. Raises DataError.

    Of a traffic log the `latest` answers are rows, and `lost` is called for each request that got none.
    """
    if is_traffic(source):
        return _completed(read_traffic(source), latest, lost)
    path = Path(source)
    if not path.is_file():
        raise _no_file(source, path)
    if source.endswith(".parquet"):
        return _read_parquet(path)
    if source.endswith((".jsonl", ".jsonl.gz")):
        return _read_jsonl(path)
    raise DataError(
        f"{source}: unknown kind of source; use *.jsonl, *.jsonl.gz, *.parquet, sqlite:/// or redis://"
    )


def _no_file(source: str, path: Path) -> DataError:
    if source and path.is_dir():
        return DataError(f"{source}: is a directory, a file is expected")
    return DataError(f"{source}: no such file")


def fingerprint(source: str) -> str:
    """Sixteen digits that tell one file's content from another's; a traffic log goes by its name, for it grows,
    whatever part of it was asked for."""
    path = Path(source)
    if source.startswith("sqlite:///"):
        source = f"sqlite:///{Path(source.removeprefix('sqlite:///')).resolve()}"
    elif source.startswith(SCHEMES):
        source = source.partition("?")[0]
    if "://" in source or not path.is_file():
        return hashlib.sha256(shown(source).encode()).hexdigest()[:16]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _read_jsonl(path: Path) -> Iterator[SourceRow]:
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield SourceRow(f"{path}:{number}", _object(f"{path}:{number}", line))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or cut off after line {number}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _object(location: str, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{location}: a JSON object is expected, not a {type(row).__name__}")
    return row


def _read_parquet(path: Path) -> Iterator[SourceRow]:
    try:
        import pyarrow  # noqa: PLC0415 - an optional extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from error
    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=2_000):
                for row in batch.to_pylist():
                    number += 1
                    yield SourceRow(f"{path}:row {number}", _present(f"{path}:row {number}", row))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error


def _present(location: str, row: Row) -> Row:
    """Without the columns that are null in this row; `messages` decoded where it is JSON text."""
    kept = {name: value for name, value in row.items() if value is not None}
    messages = kept.get("messages")
    if isinstance(messages, str):
        try:
            kept["messages"] = json.loads(messages)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{location}: messages is text that is not JSON: {error}") from error
    return kept


def is_traffic(source: str) -> bool:
    """Whether a SRC is a traffic log, which holds numbers of requests and not their text."""
    return source.startswith(("sqlite:///", *SCHEMES))


def read_traffic(source: str) -> Iterator[LoggedRequest]:
    """Every request of a traffic log up to now, oldest first, however it ended. Raises DataError."""
    if source.startswith("sqlite:///"):
        found = _read_sqlite(Path(source.removeprefix("sqlite:///")))
    elif not is_traffic(source):
        raise DataError(f"{source}: is no traffic log; give sqlite:///FILE or redis://HOST")
    else:
        found = _read_redis(source)
    return _so_far(found, shown(source), time.time())


def shown(source: str) -> str:
    """A SRC as it may be printed and written down: without the password that a Redis URL may hold."""
    if not source.startswith(SCHEMES):
        return source
    return re.sub(r"//.*@", "//", source, count=1)


def _read_sqlite(path: Path) -> Iterator[LoggedRequest]:
    if not path.is_file():
        raise _no_file(f"sqlite:///{path}", path)
    source, damaged = f"sqlite:///{path}", _Damage()
    try:
        schemas = read_schemas(path)
        for record in read_records(path, unreadable=damaged.add):
            names = schemas.get(record.schema or "", ())
            yield LoggedRequest(f"{source}:row {damaged.sound()}", record, names)
    except (sqlite3.Error, msgspec.DecodeError, ValueError) as error:
        raise DataError(f"{source}: not a readable traffic log: {error}") from error
    damaged.say(source)


def _so_far(requests: Iterator[LoggedRequest], name: str, now_s: float) -> Iterator[LoggedRequest]:
    """Without those dated later than now: what a clock that was ahead has written would be the newest for ever."""
    latest_us, ahead = (now_s + _SKEW_S) * 1e6, 0
    for request in requests:
        if request.record.arrival_us <= latest_us:
            yield request
        else:
            ahead += 1
    if ahead:
        _LOG.warning("%s: requests dated later than now left out: %d", name, ahead)


def _read_redis(source: str) -> Iterator[LoggedRequest]:
    """The stream that proxies share; `?since=` and `&until=` bound arrivals, in ISO 8601."""
    name, damaged = shown(source), _Damage()
    try:
        parts = urlsplit(source)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        since_us, until_us = (_microseconds(query.pop(bound, None)) for bound in ("since", "until"))
        address = RedisAddress(
            parts._replace(query=urlencode(query)).geturl(),
            password=os.environ.get("HEADWAY_REDIS_PASSWORD"),
            password_file=os.environ.get("HEADWAY_REDIS_PASSWORD_FILE"),
            ca_file=os.environ.get("HEADWAY_REDIS_CA_FILE"),
        )
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    try:
        for record, names in read_stream(address, since_us or 0, until_us, unreadable=damaged.add):
            yield LoggedRequest(f"{name}:row {damaged.sound()}", record, names)
    except (redis.RedisError, OSError) as error:
        raise DataError(f"{name}: Redis gives no traffic log: {said(error)}") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise DataError(f"{name}: not a readable traffic log: {error}") from error
    damaged.say(name)


def _microseconds(time: str | None) -> int | None:
    """Microseconds since 1970 of an ISO 8601 time, UTC where it names no zone. Raises ValueError."""
    if time is None:
        return None
    at = datetime.fromisoformat(time)
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6)


def _completed(
    requests: Iterator[LoggedRequest], latest: int, lost: Callable[[TrafficRecord], None]
) -> Iterator[SourceRow]:
    """Answers that ended by themselves or at their limit; others say nothing of how long they would have been."""
    answered: deque[LoggedRequest] = deque(maxlen=latest)
    for request in requests:
        if request.record.outcome is not Outcome.COMPLETED:
            lost(request.record)
        elif request.names:
            answered.append(request)
    for request in answered:
        yield SourceRow(request.location, logged_row(request))


def logged_row(request: LoggedRequest) -> Row:
    """A logged request as a row of a source."""
    row = msgspec.structs.asdict(request.record)
    truncated = request.record.finish_reason in CUT
    return {**row, "id": request.record.request_id, "feature_names": request.names, "truncated": truncated}
