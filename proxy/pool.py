"""The engines there are: each one added to, and taken out of, every part that keeps something of it."""

import logging
from typing import Final

from proxy.booking import Bookkeeper
from proxy.clock import Clock
from proxy.dispatcher import Dispatcher
from proxy.engines.registry import Engines
from proxy.gauges import watch_engine
from proxy.health import HealthWatch
from proxy.metrics import Metrics
from proxy.order_watch import Verdict
from proxy.shared.places import Places
from proxy.upstream import Upstream
from proxy.windows import Windows

_LOG: Final = logging.getLogger("headway.engines")


class Pool:
    """Adds engines and lets them go without dropping a request."""

    def __init__(
        self,
        *,
        mode: str,
        clock: Clock,
        dispatcher: Dispatcher,
        windows: Windows,
        engines: Engines,
        health: HealthWatch,
        upstream: Upstream,
        books: Bookkeeper,
        metrics: Metrics,
        places: Places | None = None,
    ) -> None:
        """`mode`: who orders, as the settings say; `places`: what other proxies that send to the engines leave."""
        self._mode = mode
        self._clock = clock
        self._dispatcher = dispatcher
        self._windows = windows
        self._engines = engines
        self._health = health
        self._upstream = upstream
        self._books = books
        self._metrics = metrics
        self._places = places
        self._leaving: set[str] = set()

    def add(self, url: str) -> None:
        """One more engine, unless it is there; it is sent to once it has answered and its kind is known."""
        if url in self._leaving:
            self._leaving.discard(url)
            self._health.stay(url)
        if self._has(url):
            return
        now_us = self._clock.now_us()
        self._engines.add(url)
        self._dispatcher.apply(self._windows.add(url, now_us))
        self._dispatcher.apply(self._dispatcher.scheduler.set_available(url, False, now_us))
        self.adapt(url)
        if self._places is not None:
            self._places.hold(url)
        watch_engine(self._metrics, self._dispatcher.scheduler.replica(url), self._books.watches[url])

    def adapt(self, url: str) -> None:
        """An engine that cannot follow our order, or does not, gets no more than a window, whatever the mode."""
        if not self._has(url):
            # It left while the last of its answers was still on its way to a slow client.
            return
        follows = self._books.watches[url].verdict is not Verdict.IGNORED
        unlimited = self._mode == "engine" and follows and self._engines.adapter(url).orders_requests
        self._dispatcher.apply(self._windows.limit(url, unlimited=unlimited, now_us=self._clock.now_us()))

    def leave(self, url: str) -> None:
        """Send nothing more to an engine; `sweep` takes it out once its last answer has ended."""
        self._leaving.add(url)
        self._health.leave(url)

    def sweep(self) -> None:
        """Take out those that have left and have nothing of ours any more."""
        for url in sorted(self._leaving):
            if not self._dispatcher.scheduler.replica(url).running:
                self._remove(url)

    def _has(self, url: str) -> bool:
        return any(replica.name == url for replica in self._dispatcher.scheduler.replicas)

    def _remove(self, url: str) -> None:
        self._dispatcher.scheduler.remove_replica(url)
        self._windows.remove(url)
        if self._places is not None:
            self._places.forget(url)
        self._engines.remove(url)
        self._upstream.forget(url)
        self._books.watches.pop(url, None)
        self._metrics.forget_engine(url)
        self._leaving.discard(url)
        self._health.stay(url)
        _LOG.info("engine %s has left", url)
