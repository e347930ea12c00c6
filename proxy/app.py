"""Headway put together: every part made once, from the settings, and started and stopped in order."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from aiohttp import web

from predictor.records import TrafficRecord
from proxy.active import ActiveCount
from proxy.clock import Clock
from proxy.dispatcher import Dispatcher
from proxy.engines.vllm import VllmAdapter
from proxy.errors import Draining, MethodNotAllowed, UnknownRoute
from proxy.health import HealthWatch
from proxy.metrics import Metrics
from proxy.passing import Passing
from proxy.ranking import Estimator, Ranking
from proxy.replies import error_response, json_response
from proxy.routes import Handling, find_route
from proxy.scheduling.policy import Policy, make_policy
from proxy.scheduling.scheduler import Scheduler
from proxy.server import Listener
from proxy.serving import Serving
from proxy.settings import Settings
from proxy.traffic_log import TrafficLog
from proxy.upstream import Upstream

_LOG: Final = logging.getLogger("headway")


class Headway:
    """The proxy as one object: `await start()`, `await drain()`, `await stop()`."""

    def __init__(
        self,
        settings: Settings,
        *,
        estimator: Estimator | None = None,
        policy: Policy | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`estimator`, `policy` and `clock` replace the configured ones, for the demo's arms and for tests."""
        self.settings = settings
        self._clock = clock or Clock()
        self._estimator = estimator or _shipped()
        chosen = policy or make_policy(settings.policy, settings.max_overtake)
        self._scheduler = Scheduler(chosen, lane_share=settings.lane_share)
        self._dispatcher = Dispatcher(self._scheduler, self._clock, max_waiting=settings.max_waiting)
        self._metrics = Metrics()
        self._active = ActiveCount()
        self._log: TrafficLog | None = None
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    @property
    def url(self) -> str:
        """The base URL that clients use."""
        return f"http://{self.settings.host}:{self.port}"

    async def start(self) -> None:
        """Listen and serve. Raises OSError or sqlite3.Error where port or state directory cannot be used."""
        settings = self.settings
        self._upstream = Upstream(settings)
        adapter = VllmAdapter()
        if settings.traffic_log:
            self._log = TrafficLog(Path(settings.state) / "traffic.db")
        api_key = _read_key(settings.engine_api_key_file)
        self._health = HealthWatch(
            self._dispatcher, adapter, self._upstream, self._clock, engine_wait_s=settings.engine_wait_s
        )
        self._serving = Serving(
            settings=settings,
            clock=self._clock,
            estimator=self._estimator,
            dispatcher=self._dispatcher,
            health=self._health,
            adapter=adapter,
            upstream=self._upstream,
            metrics=self._metrics,
            record=self._record,
            api_key=api_key,
        )
        self._passing = Passing(settings, self._scheduler, self._upstream, api_key)
        window = None if settings.mode == "engine" else settings.window
        for url in settings.engine:
            self._scheduler.add_replica(url.rstrip("/"), window, self._clock.now_us())
        self._watch_gauges()
        self._listener = Listener(self.handle, settings, settings.host, settings.port)
        self.port = await self._listener.start()
        await self._health.check()
        self._tasks.append(asyncio.create_task(self._health.run()))

    async def drain(self) -> None:
        """Take nothing new, let what waits and runs end, for at most `drain_s` seconds."""
        self._draining = True
        _LOG.info("draining: %d waiting, %d running", self._scheduler.waiting, self._scheduler.running)
        try:
            async with asyncio.timeout(self.settings.drain_s):
                await self._active.idle()
        except TimeoutError:
            _LOG.warning("%d requests are cut: drain_s is over", int(self._active))

    async def stop(self) -> None:
        """Stop listening, end what is left, write the log out."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.stop()
        await self._upstream.close()
        if self._log is not None:
            await asyncio.to_thread(self._log.close)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Every request of the client port comes through here."""
        route = find_route(request.path)
        if route is None:
            return error_response(UnknownRoute(f"There is no route {request.path} here."))
        if request.method != route.method:
            return error_response(
                MethodNotAllowed(f"{request.path} takes {route.method}, not {request.method}.")
            )
        if route.handling is Handling.OWN:
            return self._own(route.path)
        if self._draining:
            return error_response(Draining("This proxy is shutting down."))
        with self._active:
            if route.api is not None:
                return await self._serving.serve(request, route.api)
            return await self._passing.serve(request)

    def _own(self, path: str) -> web.Response:
        if path == "/metrics":
            return web.Response(
                body=self._metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"}
            )
        ready = self._health.any_available and not self._draining
        if path == "/healthz" or ready:
            return json_response({"status": "ok"})
        return json_response({"status": "draining" if self._draining else "no engine"}, status=503)

    def _record(self, record: TrafficRecord) -> None:
        if self._log is not None:
            self._log.put(record)

    def _watch_gauges(self) -> None:
        gauge = self._metrics.gauge
        gauge("headway_requests_waiting", "Requests held.").set_function(lambda: self._scheduler.waiting)
        gauge("headway_requests_running", "Requests at engines.").set_function(
            lambda: self._scheduler.running
        )
        gauge("headway_traffic_log_dropped", "Traffic records lost.").set_function(
            lambda: self._log.dropped if self._log else 0
        )
        gauge("headway_clock_skew_seconds", "Wall clock against the proxy's clock.").set_function(
            lambda: self._clock.skew_us() / 1e6
        )


def _shipped() -> Ranking:
    """The ranker that comes in the wheel."""
    ranking = Ranking()
    ranking.load()
    return ranking


def _read_key(path: str | None) -> str | None:
    return Path(path).read_text(encoding="utf-8").strip() if path else None
