"""Answers' lengths told among proxies, so that each one's history is of the traffic of all."""

import asyncio
import logging
from itertools import chain
from typing import Any, Final

import msgspec

from predictor.history import LEVELS, History, HistoryKey
from proxy.shared.link import Link
from proxy.shared.outbox import FIELD, Outbox

_LOG: Final = logging.getLogger("headway.redis")
_PART: Final = "history"
_STREAM: Final = "headway:lengths"
# What a proxy that starts can still learn from: beyond it the statistics have forgotten nearly all.
_KEEP: Final = 50_000
_QUEUE: Final = 5_000
# Observed between two turns of the loop: about a millisecond.
_PAGE: Final = 100
_BLOCK_MS: Final = 2_000


class _Length(msgspec.Struct, frozen=True, array_like=True):
    """One answer that ended by itself: hashes of who asked what, and how long the answer was."""

    proxy: str
    levels: tuple[str, ...]
    tokens: int
    finished_at_s: float


_DECODER: Final = msgspec.msgpack.Decoder(_Length)


class SharedLengths:
    """Tells others what this proxy observes, and lets its history observe what others tell."""

    def __init__(self, link: Link, proxy_id: str, history: History) -> None:
        self._link = link
        self._proxy_id = proxy_id
        self._history = history
        self._outbox = Outbox(
            link,
            msgspec.msgpack.encode,
            part=_PART,
            stream=_STREAM,
            mark=f"headway:told:{proxy_id}",
            keep=_KEEP,
            most=_QUEUE,
        )
        self._last = "0-0"
        self._known_until_s = 0.0
        self._unreadable = 0
        self.heard = 0

    def tell(self, key: HistoryKey, tokens: int, finished_at_s: float) -> None:
        """This proxy's history has observed an answer; never waits."""
        self._outbox.put(_Length(self._proxy_id, key.levels, tokens, finished_at_s))

    async def run(self) -> None:
        """Tell and listen, until cancelled. What was told before the start is caught up with first.

        What the history brought from before that is not counted twice.
        """
        self._known_until_s = self._history.newest_s()
        await asyncio.gather(self._outbox.run(), self._link.keep(_PART, self._listen))

    async def close(self) -> None:
        """Tell what is queued, if Redis takes it soon."""
        await self._outbox.close()

    async def _listen(self) -> bool:
        found: Any = await self._link.client.xread({_STREAM: self._last}, count=_PAGE, block=_BLOCK_MS)
        # Under RESP3: {stream: [[(id, fields), …]]}.
        for entry_id, fields in chain.from_iterable((found or {}).get(_STREAM.encode(), ())):
            self._last = entry_id.decode()
            self._hear(fields.get(FIELD, b""))
        # An answer that is there already is taken without a turn of the loop.
        await asyncio.sleep(0)
        return True

    def _hear(self, data: bytes) -> None:
        try:
            length = _DECODER.decode(data)
            usable = len(length.levels) == len(LEVELS) and 0 <= length.tokens < 1e8
        except (msgspec.DecodeError, UnicodeDecodeError):
            usable = False
        if not usable:
            if self._unreadable == 0:
                _LOG.warning("%s holds entries that are none of this version's; they are left out", _STREAM)
            self._unreadable += 1
        elif length.proxy != self._proxy_id and length.finished_at_s > self._known_until_s:
            self._history.observe(HistoryKey(length.levels), length.tokens, length.finished_at_s)
            self.heard += 1
