"""Headway put together: every part made once, from the settings, and started and stopped in order."""

import asyncio
import logging
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from predictor.features.schema import Schema
from predictor.records import TrafficRecord
from predictor.redis_address import RedisAddress
from proxy.active import ActiveCount
from proxy.admin import Admin
from proxy.asking.make import make_asker
from proxy.background import in_background
from proxy.booking import Bookkeeper
from proxy.clock import Clock
from proxy.discovery import Discovery
from proxy.dispatcher import Dispatcher
from proxy.engines.registry import Engines
from proxy.errors import SHUTTING_DOWN, Draining
from proxy.fairness import Fairness
from proxy.front import Front
from proxy.gauges import watch_proxy, watch_ranker, watch_redis
from proxy.health import HealthWatch
from proxy.learning import Learning, make_ranking
from proxy.metrics import Metrics
from proxy.order import make_identities, make_scheduler
from proxy.order_in_force import OrderInForce
from proxy.owners import Owners
from proxy.passing import Passing
from proxy.pool import Pool
from proxy.ranking import Estimator, Ranking
from proxy.scheduling.policy import Policy
from proxy.server import Listener
from proxy.serving import Serving
from proxy.settings import Settings
from proxy.shared.together import Together
from proxy.status import Status, engine_status, first_waiting
from proxy.traffic_log import TrafficLog, TrafficSink, open_log
from proxy.upstream import Upstream
from proxy.windows import Windows

_LOG: Final = logging.getLogger("headway")
_FIRST_LOOK_S: Final = 3.0


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
        self._estimator = estimator or make_ranking(settings)
        self._scheduler = make_scheduler(settings, policy)
        self._windows = Windows(self._scheduler, fixed=settings.window)
        self._dispatcher = Dispatcher(self._scheduler, self._windows, self._clock)
        self._order = OrderInForce(
            settings, self._scheduler, self._dispatcher, self._clock, fixed=policy is not None
        )
        self._learning = Learning(settings, self._estimator, self._order, self._clock, self._logged)
        self._identities = make_identities(settings, self._scheduler.classes)
        self.metrics = Metrics()
        self._active = ActiveCount()
        self._log: TrafficSink | None = None
        self._together: Together | None = None
        self._listeners: list[Listener] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.port = self.admin_port = 0

    @property
    def url(self) -> str:
        """The base URL that clients use."""
        return f"http://{self.settings.host}:{self.port}"

    async def start(self) -> None:
        """Listen and serve. Raises OSError or sqlite3.Error where port or state directory cannot be used."""
        settings = self.settings
        if (address := settings.redis_address()) is not None:
            self._together = self._make_together(address)
        if settings.traffic_log:
            self._log = self._together.log if self._together else open_log(settings)
        self._upstream = Upstream(settings)
        api_key = settings.read_api_key()
        self._watch_engines(api_key)
        self._serve_clients(api_key)
        self._discovery = Discovery(self._pool)
        await self._discovery.start(settings.engine)
        watch_proxy(
            self.metrics,
            self._scheduler,
            self._clock,
            self._books.fairness,
            lambda: self._log.dropped if self._log else 0,
        )
        watch_ranker(self.metrics, self._learning)
        if self._together is not None:
            watch_redis(self.metrics, self._together)
            await self._together.start()
        await self._learning.start()
        self._listeners.append(Listener(self._front.handle, settings, settings.host, settings.port))
        self.port = await self._listeners[0].start()
        if settings.admin_port is not None:
            admin = Admin(self.metrics, self.status, self.drain)
            self._listeners.append(Listener(admin.handle, settings, settings.admin_host, settings.admin_port))
            self.admin_port = await self._listeners[1].start()
        running = [self._health.run(), self._engines.run(), self._dispatcher.run(), self._discovery.run()]
        running += [*self._learning.running(), *(self._together.parts() if self._together else [])]
        self._tasks += [in_background(part) for part in running]
        # Requests are taken already; this only lets whoever starts us find the engines looked at.
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_S):
                await self._health.looked.wait()

    def _make_together(self, address: RedisAddress) -> Together:
        return Together(
            address,
            keep_rows=self.settings.redis_rows,
            dispatcher=self._dispatcher,
            windows=self._windows,
            clock=self._clock,
            ranking=self._estimator if isinstance(self._estimator, Ranking) else None,
            state=Path(self.settings.state),
            published=self._learning.wake,
        )

    def _watch_engines(self, api_key: str | None) -> None:
        settings = self.settings
        default = next(one for one in self._scheduler.classes if one.name == settings.default_class)
        self._engines = Engines(
            self._upstream,
            api_key,
            kind=settings.engine_kind,
            default_tier=default.tier,
            changed=self._adapt,
        )
        self._books = Bookkeeper(
            clock=self._clock,
            metrics=self.metrics,
            estimator=self._estimator,
            engines=self._engines,
            record=self._record,
            learning=self._learning,
            mode=settings.mode,
            text_mode=settings.text_mode,
            fairness=Fairness(self._scheduler.weight_of),
            judged=self._adapt,
            tell=self._together.tell if self._together else None,
        )
        self._health = HealthWatch(
            self._dispatcher,
            self._engines,
            self._upstream,
            self._clock,
            engine_wait_s=settings.engine_wait_s,
            came_back=self._books.came_back,
        )
        self._pool = Pool(
            mode=settings.mode,
            clock=self._clock,
            dispatcher=self._dispatcher,
            windows=self._windows,
            engines=self._engines,
            health=self._health,
            upstream=self._upstream,
            books=self._books,
            metrics=self.metrics,
            places=self._together.places if self._together else None,
        )

    def _serve_clients(self, api_key: str | None) -> None:
        settings, owners = self.settings, Owners()
        self._asker = make_asker(
            settings,
            api_key,
            dispatcher=self._dispatcher,
            engines=self._engines,
            upstream=self._upstream,
            estimator=self._estimator,
            metrics=self.metrics,
            clock=self._clock,
        )
        self._serving = Serving(
            settings=settings,
            clock=self._clock,
            identities=self._identities,
            estimator=self._estimator,
            dispatcher=self._dispatcher,
            health=self._health,
            engines=self._engines,
            upstream=self._upstream,
            books=self._books,
            owners=owners,
            asker=self._asker,
            api_key=api_key,
        )
        self._passing = Passing(
            settings=settings,
            scheduler=self._scheduler,
            upstream=self._upstream,
            identities=lambda: self._serving.identities,
            draining=lambda: self._serving.draining,
            owners=owners,
            metrics=self.metrics,
            api_key=api_key,
        )
        self._front = Front(self._serving, self._passing, self._health, self._active, self.metrics)

    def _adapt(self, url: str) -> None:
        self._pool.adapt(url)

    def reload(self, settings: Settings) -> None:
        """Take over policies, D, keys and the default class of new settings, between two requests.

        Whoever waits is keyed anew. Raises SettingsError where classes come, go or change otherwise: that
        needs a restart, and nothing is changed.
        """
        self._serving.identities = self._order.reload(settings)
        self._learning.reload(settings)
        self.settings = msgspec.structs.replace(self.settings, default_class=settings.default_class)
        _LOG.info("reloaded: %s", self._order)

    async def look(self) -> None:
        """Look at the engines now, not only at the next turn."""
        await self._health.check()

    async def drain(self) -> bool:
        """Take nothing new and let what waits and runs end; False where `drain_s` seconds were too few."""
        self._serving.draining = True
        _LOG.info("draining: %d waiting, %d running", self._scheduler.waiting, self._scheduler.running)
        try:
            async with asyncio.timeout(self.settings.drain_s):
                await self._active.idle()
        except TimeoutError:
            _LOG.warning("%d requests are cut: drain_s is over", int(self._active))
            return False
        return True

    async def stop(self) -> None:
        """End what is left with a word, stop listening, write the log out."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._serving.draining = True
        self._dispatcher.refuse_waiting(Draining(SHUTTING_DOWN))
        if self._asker is not None:
            await self._asker.close()
        await self._upstream.close()
        await self._learning.close()
        for listener in self._listeners:
            await listener.stop()
        await self._serving.close()
        if self._together is not None:
            await self._together.close()
        if isinstance(self._log, TrafficLog):
            await asyncio.to_thread(self._log.close)

    def status(self) -> Status:
        """What the proxy is doing now."""
        policy = self._scheduler.policy_of(self.settings.default_class)
        bound_us = policy.overtake_bound_us
        return Status(
            version=version("headway"),
            mode=self.settings.mode,
            policy=policy.name,
            max_overtake_s=None if bound_us is None else bound_us / 1e6,
            order=self._order.ordering,
            artifact=self._estimator.artifact_id,
            ranker=self._learning.status(),
            draining=self._serving.draining,
            waiting=self._scheduler.waiting,
            running=self._scheduler.running,
            outcomes={outcome.value: count for outcome, count in self.metrics.ended.items()},
            engines=[
                engine_status(one, self._engines, self._books.watches[one.name], self._windows, self._asker)
                for one in self._scheduler.replicas
            ],
            first_waiting=first_waiting(self._scheduler, self._clock.now_us()),
            traffic_log_written=self._logged(),
            traffic_log_dropped=self._log.dropped if self._log else 0,
        )

    def _logged(self) -> int:
        return self._log.written if self._log else 0

    def _record(self, record: TrafficRecord, schema: Schema | None) -> None:
        if self._log is not None:
            self._log.put(record, schema)
