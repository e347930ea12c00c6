"""What is on its way to a Redis stream: a bounded queue before one task that writes batches in the background."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from proxy.shared.link import Link

_LOG: Final = logging.getLogger("headway.redis")
_FLUSH_S: Final = 0.2
_BATCH: Final = 64
_CLOSE_S: Final = 2.0
_MARK_S: Final = 3600
FIELD: Final = b"r"
# One call per batch costs a third of what a pipeline of XADDs does. It is done whole or not at all, and the mark
# says which.
_WRITE: Final = f"""
for i = 3, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', '{FIELD.decode()}', ARGV[i])
end
redis.call('SET', KEYS[2], ARGV[1], 'EX', {_MARK_S})
"""
_Item = TypeVar("_Item")


class Outbox(Generic[_Item]):
    """Takes items at any time and writes them when Redis is there. `dropped` counts what it never will.

    A batch whose answer was lost with the connection may have been written or not: before it is sent again, its
    mark is read, so everything is in the stream once.
    """

    def __init__(
        self,
        link: Link,
        encode: Callable[[_Item], bytes],
        *,
        part: str,
        stream: str,
        mark: str,
        keep: int,
        most: int,
    ) -> None:
        """`mark`: a key of this outbox alone; `keep`: about how long the stream is; `most`: the queue's bound.

        `encode` raises ValueError or OverflowError for what cannot be written.
        """
        self._link = link
        self._encode = encode
        self._part = part
        self._keys = [stream, mark]
        self._keep = keep
        self._most = most
        self._write = link.client.register_script(_WRITE)
        self._queue: deque[_Item] = deque()
        self._batch: list[bytes] = []
        self._number = 0
        self._doubtful = False
        self.dropped = 0
        self.written = 0

    def put(self, item: _Item) -> None:
        """Hand over one item; never waits. A full queue drops it."""
        if len(self._queue) >= self._most:
            self.dropped += 1
        else:
            self._queue.append(item)

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        await self._link.keep(self._part, self._flush_later)

    async def close(self) -> None:
        """Write what is queued, if Redis takes it soon; the rest is lost, counted and said."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._link.attempt(self._part, self.flush)
        left = len(self._queue) + len(self._batch)
        if left:
            _LOG.error("%s: lost the last %d, Redis did not take them", self._part, left)
            self.dropped += left
            self._queue.clear()
            self._batch.clear()

    async def flush(self) -> bool:
        """Write all that is queued, if anything; raises what Redis raises, and keeps what was not written."""
        before = self.written
        while True:
            if self._doubtful:
                await self._settle_doubt()
            if not self._batch:
                self._fill_batch()
            if not self._batch:
                return self.written > before
            await self._send_batch()

    async def _flush_later(self) -> bool:
        await asyncio.sleep(_FLUSH_S)
        return await self.flush()

    async def _send_batch(self) -> None:
        self._number += 1
        # Doubtful until the answer is here: a cancel in between tells as little as a lost connection.
        self._doubtful = True
        await self._write(keys=self._keys, args=[self._number, self._keep, *self._batch])
        self._sent()

    async def _settle_doubt(self) -> None:
        """Whether the last batch was written although no answer came."""
        mark = await self._link.client.get(self._keys[1])
        if mark is not None and int(mark) == self._number:
            self._sent()
        self._doubtful = False

    def _sent(self) -> None:
        self.written += len(self._batch)
        self._batch = []
        self._doubtful = False

    def _fill_batch(self) -> None:
        while self._queue and len(self._batch) < _BATCH:
            try:
                self._batch.append(self._encode(self._queue.popleft()))
            except (ValueError, OverflowError) as error:
                self.dropped += 1
                _LOG.error("%s: lost one that cannot be written: %s", self._part, error)
