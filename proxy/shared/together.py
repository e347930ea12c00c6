"""All that proxies share, as one object: made from the settings, started and stopped by the app."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from predictor.history import HistoryKey
from predictor.redis_address import RedisAddress
from proxy.clock import Clock
from proxy.dispatcher import Dispatcher
from proxy.ranking import Ranking
from proxy.shared.artifacts import SharedArtifacts
from proxy.shared.lengths import SharedLengths
from proxy.shared.link import Link
from proxy.shared.places import Places
from proxy.shared.traffic import StreamLog
from proxy.windows import Windows


class Together:
    """The link to Redis with everything that goes over it. Without Redis each part does what it can alone."""

    def __init__(
        self,
        address: RedisAddress,
        *,
        keep_rows: int,
        dispatcher: Dispatcher,
        windows: Windows,
        clock: Clock,
        ranking: Ranking | None,
        state: Path,
        published: Callable[[], None],
    ) -> None:
        """`keep_rows`: of the traffic stream. `ranking`: what learns from others' answers, if anything does.

        `published` is called when another artifact is to serve; it is under `state` by then.
        """
        proxy_id = uuid.uuid4().hex[:16]
        self._link = Link(address)
        self.log = StreamLog(self._link, proxy_id, keep_rows=keep_rows)
        self.places = Places(self._link, proxy_id, dispatcher, windows, clock)
        self._lengths = self._artifacts = None
        if ranking is not None:
            self._lengths = SharedLengths(self._link, proxy_id, ranking.history)
            self._artifacts = SharedArtifacts(self._link, address, state, published)

    @property
    def works(self) -> bool:
        """Whether Redis is there and takes all."""
        return self._link.works

    def tell(self, key: HistoryKey, tokens: int, finished_at_s: float) -> None:
        """This proxy has learned of an answer's length; never waits."""
        if self._lengths is not None:
            self._lengths.tell(key, tokens, finished_at_s)

    async def start(self) -> None:
        """Have what others have published before anything is served; takes a few seconds at most."""
        if self._artifacts is not None:
            await self._artifacts.start()

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What runs in the background, until cancelled."""
        parts = (self.log, self.places, self._lengths, self._artifacts)
        return [part.run() for part in parts if part is not None]

    async def close(self) -> None:
        """Hand over what is queued, give back what is held, disconnect; takes a few seconds at most."""
        parts = [self.log.close(), self.places.close()]
        if self._lengths is not None:
            parts.append(self._lengths.close())
        await asyncio.gather(*parts)
        await self._link.close()
