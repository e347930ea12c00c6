"""The traffic log on a Redis stream, where several proxies share one."""

import asyncio
import json
from typing import Final

from predictor.features.schema import Schema
from predictor.records import TrafficRecord
from predictor.traffic_stream import SCHEMAS, STREAM, encode_record
from proxy.shared.link import Link
from proxy.shared.outbox import Outbox

# Some 20 MB: a minute of a busy proxy, an hour of most.
_QUEUE: Final = 20_000
_PART: Final = "traffic log"
_TELL_EVERY_S: Final = 2.0


class StreamLog:
    """A sink of traffic records; see Outbox for what becomes of them without Redis."""

    def __init__(self, link: Link, proxy_id: str, *, keep_rows: int) -> None:
        """`keep_rows`: about how many entries the stream keeps, of all proxies together."""
        self._link = link
        self._outbox = Outbox(
            link,
            encode_record,
            part=_PART,
            stream=STREAM,
            mark=f"headway:traffic:{proxy_id}",
            keep=keep_rows,
            most=_QUEUE,
        )
        self._schemas: dict[str, str] = {}

    @property
    def dropped(self) -> int:
        """Records that will never be in the stream."""
        return self._outbox.dropped

    @property
    def written(self) -> int:
        """Records that are."""
        return self._outbox.written

    def put(self, record: TrafficRecord, schema: Schema | None = None) -> None:
        """Hand over one record, with the schema of its features; never waits. A full queue drops it."""
        self._outbox.put(record)
        if schema is not None and schema.id not in self._schemas:
            self._schemas[schema.id] = json.dumps(list(schema.names))

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        await asyncio.gather(self._outbox.run(), self._link.keep(_PART, self._tell_schemas_later))

    async def close(self) -> None:
        """Write what is queued, if Redis takes it soon."""
        await self._outbox.close()
        await self._link.attempt(_PART, self._tell_schemas)

    async def _tell_schemas_later(self) -> bool:
        """Again and again: a Redis that was emptied must not keep rows whose columns nobody can name."""
        await asyncio.sleep(_TELL_EVERY_S)
        return await self._tell_schemas()

    async def _tell_schemas(self) -> bool:
        if self._schemas:
            await self._link.client.hset(SCHEMAS, mapping=self._schemas)
        return bool(self._schemas)
