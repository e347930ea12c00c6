"""Watching the engines: which of them answer, asked in the background and never on a request's path."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import closing
from typing import Final

import aiohttp
from multidict import CIMultiDict

from proxy.clock import Clock
from proxy.dispatcher import Dispatcher
from proxy.engines.registry import Engines
from proxy.errors import HeadwayError
from proxy.scheduling.replica import Replica
from proxy.upstream import Upstream

_LOG: Final = logging.getLogger("headway.health")
_INTERVAL_S: Final = 1.0
_TIMEOUT_S: Final = 5.0


class HealthWatch:
    """Asks each engine's health route once a second and tells the scheduler who can be sent to."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        engines: Engines,
        upstream: Upstream,
        clock: Clock,
        *,
        engine_wait_s: float,
        came_back: Callable[[str], None],
    ) -> None:
        """`engine_wait_s`: how long requests wait for an engine to come back before they are refused.

        `came_back` is called with the URL of one that did.
        """
        self._dispatcher = dispatcher
        self._engines = engines
        self._upstream = upstream
        self._clock = clock
        self._engine_wait_us = engine_wait_s * 1e6
        self._came_back = came_back
        self._last_seen_us = 0
        self._reasons: dict[str, str] = {}
        self._leaving: set[str] = set()
        self._doubted: set[str] = set()
        self._trusted_us: dict[str, int] = {}
        self._asking: set[asyncio.Task[None]] = set()
        upstream.lost = self.doubt
        self.looked = asyncio.Event()
        """Set once every engine was asked for the first time."""

    @property
    def any_available(self) -> bool:
        """Whether at least one engine answered last time."""
        replicas = self._dispatcher.scheduler.replicas
        return any(replica.available or replica.name in self._doubted for replica in replicas)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(_INTERVAL_S)

    async def check(self) -> None:
        """Ask every engine once, side by side."""
        names = [one.name for one in self._dispatcher.scheduler.replicas if one.name not in self._leaving]
        answers = await asyncio.gather(*(self._answers(name) for name in names))
        for name, available in zip(names, answers, strict=True):
            self.note(name, available)
        await asyncio.gather(*(self._read_gauges(replica) for replica in self._busy()))
        self._judge_blackout()
        self.looked.set()

    def _judge_blackout(self) -> None:
        now_us = self._clock.now_us()
        if self.any_available:
            self._last_seen_us = now_us
            self._dispatcher.black_out(None)
        elif now_us - self._last_seen_us >= self._engine_wait_us:
            names = [replica.name for replica in self._dispatcher.scheduler.replicas]
            reasons = (self._reasons.get(name, f"nothing answers at {name}") for name in names)
            why = "; ".join(reasons) or "none has been found yet"
            if self._dispatcher.black_out("No engine can serve."):
                _LOG.warning("no engine can serve: %s", why)

    def _busy(self) -> list[Replica]:
        """Engines that are there, have work of ours, and a window to be found: only then do gauges tell anything.

        vLLM takes some 10 ms to write them, in the process that also streams the answers.
        """
        replicas = self._dispatcher.scheduler.replicas
        return [one for one in replicas if one.available and one.running and one.window is not None]

    async def _read_gauges(self, replica: Replica) -> None:
        """Hand an engine's gauges to its window; an engine without /metrics has none."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                response = await self._upstream.open(replica.name, "GET", "/metrics", CIMultiDict(), None)
                with closing(response):
                    text = await response.content.read()
        except (HeadwayError, TimeoutError, aiohttp.ClientError):
            return
        load = self._engines.adapter(replica.name).load(text)
        if load is not None and self._replica(replica.name) is not None:
            self._dispatcher.polled(replica.name, load.running, load.waiting, load.kv_usage)

    def note(self, name: str, available: bool) -> None:
        """An engine was found there or gone, here or on a request's path; what has left meanwhile is ignored."""
        known = self._replica(name)
        if known is None or name in self._leaving:
            return
        doubted = name in self._doubted
        self._doubted.discard(name)
        if doubted and available:
            self._trusted_us[name] = self._clock.now_us()
            self._dispatcher.pause(name, paused=False)
        elif doubted or known.available != available:
            level = logging.INFO if available else logging.WARNING
            _LOG.log(level, "engine %s %s", name, "answers" if available else "is gone")
            if available:
                self._engines.renew(name)
                self._came_back(name)
            self._dispatcher.seen(name, available)

    def doubt(self, name: str) -> None:
        """An engine broke a connection: nothing more is sent there until it has said that it is well.

        Not more often than once a second: requests that make an engine break theirs shall not hold up the others.
        """
        replica = self._replica(name)
        recently_us = self._clock.now_us() - round(_INTERVAL_S * 1e6)
        if replica is None or not replica.available or self._trusted_us.get(name, 0) > recently_us:
            return
        self._doubted.add(name)
        self._dispatcher.pause(name, paused=True)
        task = asyncio.get_running_loop().create_task(self._ask_again(name))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask_again(self, name: str) -> None:
        self.note(name, await self._is_healthy(name))

    def leave(self, name: str) -> None:
        """Send nothing more to an engine, however well it answers; what runs there goes on."""
        self.note(name, available=False)
        self._leaving.add(name)

    def stay(self, name: str) -> None:
        """The engine is wanted again, or gone altogether."""
        self._leaving.discard(name)
        self._trusted_us.pop(name, None)

    def _replica(self, name: str) -> Replica | None:
        replicas = self._dispatcher.scheduler.replicas
        return next((replica for replica in replicas if replica.name == name), None)

    async def _answers(self, name: str) -> bool:
        """Whether an engine is there. One that was not is first asked what it is: it may be another now."""
        healthy = await self._is_healthy(name)
        if healthy and not self._is_known(name):
            await self._engines.examine(name)
            return await self._is_healthy(name)
        return healthy

    def _is_known(self, name: str) -> bool:
        replica = self._replica(name)
        there = replica is not None and (replica.available or name in self._doubted)
        return there and self._engines.facts(name) is not None

    async def _is_healthy(self, name: str) -> bool:
        adapter = self._engines.adapter(name)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                response = await self._upstream.open(name, "GET", adapter.health_path, CIMultiDict(), None)
        except (HeadwayError, TimeoutError) as error:
            self._reasons[name] = str(error) or f"{name} does not answer {adapter.health_path}"
            return False
        self._reasons[name] = f"{name} answers {adapter.health_path} with status {response.status}"
        with closing(response):
            return adapter.is_healthy(response.status)
