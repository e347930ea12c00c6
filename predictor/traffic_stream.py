"""The traffic log as a Redis stream, where several proxies share one: its names, and how rows come out again.

Each entry is one record, in the encoding of the SQLite log; feature names are in a hash by schema id. An entry's
id is Redis's own time when the request had ended, so a span of time is a span of ids.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

import msgspec
import redis

from predictor.records import TrafficRecord
from predictor.redis_address import RedisAddress
from predictor.traffic_store import names_of

STREAM: Final = "headway:traffic"
SCHEMAS: Final = "headway:schemas"
RECORD: Final = b"r"
_PAGE: Final = 1_000
# Clocks of proxies and Redis may differ by so much without a record being missed.
_SKEW_MS: Final = 60_000


def encode_record(record: TrafficRecord) -> bytes:
    """One entry's field. Raises ValueError or OverflowError for a value that JSON cannot hold."""
    return msgspec.json.encode(record)


def read_stream(
    address: RedisAddress,
    since_us: int = 0,
    until_us: int | None = None,
    *,
    unreadable: Callable[[], None] = lambda: None,
) -> Iterator[tuple[TrafficRecord, tuple[str, ...]]]:
    """Records that arrived in [since, until), in the order in which they ended, with their features' names.

    `unreadable` is called for each entry that is none. Raises redis.RedisError or OSError (no connection, no password
    file).
    """
    with closing(redis.Redis(**address.options(), socket_timeout=30)) as client:
        names = {key.decode("utf-8", "replace"): names_of(value) for key, value in _hash(client).items()}
        for entry in _entries(client, max(0, since_us // 1000 - _SKEW_MS)):
            try:
                record = msgspec.json.decode(entry, type=TrafficRecord)
            except (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError):
                unreadable()  # one damaged entry costs one request
                continue
            if record.arrival_us >= since_us and (until_us is None or record.arrival_us < until_us):
                yield record, names.get(record.schema or "", ())


def _hash(client: "redis.Redis") -> dict[bytes, bytes]:
    found: Any = client.hgetall(SCHEMAS)
    return dict(found)


def _entries(client: "redis.Redis", since_ms: int) -> Iterator[bytes]:
    """Page by page up to what is there now; entries that are added meanwhile are not waited for."""
    newest: Any = client.xrevrange(STREAM, count=1)
    if not newest:
        return
    last, start = newest[0][0], str(since_ms)
    while True:
        page: Any = client.xrange(STREAM, start, last, count=_PAGE)
        for _, fields in page:
            yield fields.get(RECORD, b"")
        if len(page) < _PAGE:
            return
        start = "(" + page[-1][0].decode()
