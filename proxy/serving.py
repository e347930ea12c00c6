"""The path of one scheduled request: in, ranked, keyed, waiting, sent, relayed, recorded."""

import asyncio
import itertools
import logging
import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import aiohttp
from aiohttp import web

from predictor.records import Outcome, TrafficRecord
from predictor.request import Api, InferenceRequest
from proxy import headers as names
from proxy.clock import Clock
from proxy.dispatcher import Dispatcher
from proxy.engines.adapter import EngineAdapter, Outgoing
from proxy.errors import Draining, EngineUnreachable, HeadwayError, InternalError
from proxy.exchange import Exchange
from proxy.headers import to_engine
from proxy.health import HealthWatch
from proxy.ingress import parse_body, read_body
from proxy.metrics import Metrics
from proxy.order_watch import OrderWatch, Sighting, Verdict
from proxy.ranking import Estimate, Estimator
from proxy.relay import Relay
from proxy.replies import error_response
from proxy.scheduling.queued import QueuedRequest
from proxy.settings import Settings
from proxy.upstream import Upstream

_LOG: Final = logging.getLogger("headway.serving")
# Connections that may fail before a request is refused; each goes to an engine believed to be there.
_ATTEMPTS: Final = 3
_ENDED_BY_ITSELF: Final = frozenset({"stop", "tool_calls", "function_call"})


class Serving:
    """Serves scheduled routes. One instance per proxy."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        estimator: Estimator,
        dispatcher: Dispatcher,
        health: HealthWatch,
        adapter: EngineAdapter,
        upstream: Upstream,
        metrics: Metrics,
        record: Callable[[TrafficRecord], None],
        api_key: str | None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._estimator = estimator
        self._dispatcher = dispatcher
        self._health = health
        self._adapter = adapter
        self._upstream = upstream
        self._metrics = metrics
        self._record = record
        self._api_key = api_key
        self._seq = itertools.count()
        self.draining = False
        self.watches: defaultdict[str, OrderWatch] = defaultdict(OrderWatch)

    async def serve(self, request: web.BaseRequest, api: Api) -> web.StreamResponse:
        """Serve one request; it ends exactly once, whatever happens."""
        exchange = Exchange(uuid.uuid4().hex, api, self._clock.now_us())
        try:
            return await self._serve(request, exchange)
        except HeadwayError as error:
            exchange.end(error.outcome)
            exchange.status = error.http_status
            return error_response(error, self._response_headers(exchange))
        except (asyncio.CancelledError, ConnectionError):
            exchange.end(Outcome.CLIENT_GONE)
            raise
        except Exception as error:  # noqa: BLE001 - the task's edge: a defect costs one request, not the process
            _LOG.exception("request %s failed inside Headway", exchange.request_id)
            exchange.end(Outcome.INTERNAL_ERROR)
            exchange.status = InternalError.status
            failure = InternalError(f"Headway failed: {type(error).__name__}; see its log.")
            return error_response(failure, self._response_headers(exchange))
        finally:
            self._book(exchange)

    async def _serve(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        if self.draining:
            raise Draining("This proxy is shutting down.")
        raw = await read_body(request, timeout_s=self._settings.body_timeout_s)
        exchange.body = parse_body(raw, exchange.api)
        exchange.estimate = estimate = self._estimate(exchange)
        for attempt in range(_ATTEMPTS):
            queued = QueuedRequest(
                next(self._seq), exchange.request_id, exchange.arrival_us, estimate.prediction
            )
            await self._dispatcher.admit(queued)
            try:
                return await self._exchange_with_engine(request, raw, queued, exchange)
            except EngineUnreachable:
                # Nothing was sent, so it is safe to take another engine, or this one when it is back.
                self._health.note(queued.replica or "", available=False)
                if attempt == _ATTEMPTS - 1:
                    raise
            finally:
                self._dispatcher.release(queued)
        raise AssertionError("the last attempt returns or raises")

    def _estimate(self, exchange: Exchange) -> Estimate:
        assert exchange.body is not None
        return self._estimator.estimate(
            InferenceRequest(exchange.request_id, exchange.api, exchange.body, exchange.arrival_us)
        )

    async def _exchange_with_engine(
        self, request: web.BaseRequest, raw: bytes, queued: QueuedRequest, exchange: Exchange
    ) -> web.StreamResponse:
        exchange.key_us = queued.key_us
        exchange.replica = queued.replica
        exchange.dispatched_us = queued.dispatched_us
        outgoing = self._outgoing(raw, queued, exchange)
        engine = await self._send(request, outgoing, exchange)
        relay = Relay(
            self._upstream, self._clock, request, exchange, lambda: self._dispatcher.release(queued)
        )
        try:
            return await relay.answer(
                engine, self._response_headers(exchange), drop_usage=outgoing.added_usage
            )
        finally:
            # Closing, not releasing: an unread rest means that the engine must abort.
            engine.close()

    def _outgoing(self, raw: bytes, queued: QueuedRequest, exchange: Exchange) -> Outgoing:
        assert exchange.body is not None
        priority = None if self._settings.mode == "hold" else queued.key_us
        return self._adapter.outgoing(exchange.api, raw, exchange.body, priority)

    async def _send(
        self, request: web.BaseRequest, outgoing: Outgoing, exchange: Exchange
    ) -> aiohttp.ClientResponse:
        added = {"X-Request-Id": exchange.request_id} | outgoing.headers
        headers = to_engine(request.headers, added, self._api_key)
        assert exchange.replica is not None
        return await self._upstream.open(exchange.replica, "POST", request.path_qs, headers, outgoing.body)

    def _response_headers(self, exchange: Exchange) -> dict[str, str]:
        ours = {names.REQUEST_ID: exchange.request_id, names.POLICY: self._dispatcher.scheduler.policy.name}
        if exchange.estimate is not None:
            ours[names.PREDICTED_TOKENS] = str(round(exchange.estimate.prediction.tokens))
            ours[names.ARTIFACT] = self._estimator.artifact_id
        waited_until_us = exchange.dispatched_us or self._clock.now_us()
        ours[names.QUEUE_MS] = f"{(waited_until_us - exchange.arrival_us) / 1000:.1f}"
        return ours

    def _book(self, exchange: Exchange) -> None:
        outcome = exchange.outcome or Outcome.INTERNAL_ERROR
        self._metrics.observe(exchange, outcome)
        self._watch_order(exchange)
        self._learn(exchange)
        self._record(
            exchange.record(
                policy=self._dispatcher.scheduler.policy.name,
                mode=self._settings.mode,
                artifact=self._estimator.artifact_id,
            )
        )

    def _learn(self, exchange: Exchange) -> None:
        """Only answers that ended by themselves are lengths; a cut one says no more than 'at least'."""
        tokens = exchange.usage.completion_tokens if exchange.usage else None
        if exchange.estimate is None or tokens is None or exchange.finish_reason not in _ENDED_BY_ITSELF:
            return
        self._estimator.learn(exchange.estimate, tokens, self._clock.now_us() / 1e6)

    def _watch_order(self, exchange: Exchange) -> None:
        """Only streams count: a unary answer's first byte comes with its last."""
        if exchange.first_byte_us is None or exchange.body is None or not exchange.body.stream:
            return
        assert (
            exchange.replica is not None
            and exchange.dispatched_us is not None
            and exchange.key_us is not None
        )
        watch = self.watches[exchange.replica]
        before = watch.verdict
        watch.observe(Sighting(exchange.dispatched_us, exchange.first_byte_us, exchange.key_us))
        if watch.verdict is not before:
            _LOG.log(
                logging.INFO if watch.verdict is Verdict.HONOURED else logging.WARNING,
                "engine %s: priority %s (%d pairs)",
                exchange.replica,
                watch.verdict.value,
                watch.pairs,
            )
