"""The path of one scheduled request: in, ranked, keyed, waiting, sent, relayed, booked."""

import asyncio
import itertools
import logging
import uuid
from collections.abc import Awaitable
from functools import partial
from typing import Final

from aiohttp import web

from predictor.records import Outcome
from predictor.request import Api, InferenceRequest, RequestBody, guessed_tokens, prompt_characters
from predictor.self_query import SelfQuery
from proxy import headers as names
from proxy.asking.asker import Asker, Candidate
from proxy.booking import Bookkeeper
from proxy.clock import Clock
from proxy.dispatcher import Dispatcher
from proxy.engines.registry import Engines
from proxy.errors import (
    SHUTTING_DOWN,
    Draining,
    EngineFull,
    EngineUnreachable,
    HeadwayError,
    InternalError,
    UnknownResponse,
)
from proxy.exchange import Exchange
from proxy.headers import steering_fields
from proxy.health import HealthWatch
from proxy.held_stream import HeldStream, held_open
from proxy.identity import Identities, Identity
from proxy.ingress import parse_body, read_body, without_steering
from proxy.owners import Owners
from proxy.ranking import Estimate, Estimator
from proxy.relay import Relay
from proxy.replies import error_response
from proxy.scheduling.queued import QueuedRequest
from proxy.sending import Sender
from proxy.settings import Settings
from proxy.tracing import make_spans
from proxy.upstream import Upstream, say_failed

_LOG: Final = logging.getLogger("headway.serving")
# Connections that may fail before a request is refused; each goes to an engine believed to be there.
_ATTEMPTS: Final = 3
# Refusals for a full queue; each leaves the engine fewer requests, so that only others' keep it full so long.
_MOST_REFUSALS: Final = 16


class Serving:
    """Serves scheduled routes. One instance per proxy."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        identities: Identities,
        estimator: Estimator,
        dispatcher: Dispatcher,
        health: HealthWatch,
        engines: Engines,
        upstream: Upstream,
        books: Bookkeeper,
        owners: Owners,
        asker: Asker | None,
        api_key: str | None,
    ) -> None:
        """Raises SettingsError where spans are asked for and cannot be made."""
        self._settings = settings
        self._clock = clock
        self._spans = make_spans(settings, clock)
        self.identities = identities
        self._estimator = estimator
        self._dispatcher = dispatcher
        self._health = health
        self._engines = engines
        self._upstream = upstream
        self._books = books
        self._owners = owners
        self._asker = asker
        self._sender = Sender(settings, engines, upstream, owners, api_key)
        self._seq = itertools.count()
        self.draining = False

    async def serve(self, request: web.BaseRequest, api: Api) -> web.StreamResponse:
        """Serve one request; it ends exactly once, whatever happens."""
        exchange = Exchange(uuid.uuid4().hex, api, self._clock.now_us())
        try:
            if self._spans is not None:
                exchange.span = self._spans.begin(api, exchange.arrival_us, request.headers)
            return await self._serve(request, exchange)
        except HeadwayError as error:
            say_failed(f"request {exchange.request_id}", error)
            exchange.end(error.outcome)
            exchange.status = error.http_status
            return error_response(error, self._response_headers(exchange), path=request.path)
        except (asyncio.CancelledError, ConnectionError):
            exchange.end(Outcome.CLIENT_GONE)
            raise
        except Exception as error:
            _LOG.exception("request %s failed inside Headway", exchange.request_id)
            exchange.end(Outcome.INTERNAL_ERROR)
            exchange.status = InternalError.status
            if request.writer.output_size > 0:
                raise ConnectionResetError("a second answer would corrupt the one that has begun") from error
            failure = InternalError(f"Headway failed: {type(error).__name__}; see its log.")
            return error_response(failure, self._response_headers(exchange), path=request.path)
        finally:
            if self._asker is not None:
                self._asker.judge(exchange)
            self._books.book(exchange, self._policy_name(exchange))

    async def close(self) -> None:
        """Everything has ended: let the last spans go out."""
        if self._spans is not None:
            await self._spans.close()

    async def _serve(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        if self.draining:
            raise Draining(SHUTTING_DOWN)
        exchange.identity = self.identities.identify(request.headers)
        raw = await read_body(request, timeout_s=self._settings.body_timeout_s)
        exchange.body = body = parse_body(raw, exchange.api)
        self._check_owner(body, exchange.identity)
        may = exchange.identity.may_set_priority
        raw = without_steering(raw, steering_fields(exchange.api, may_set_priority=may))
        exchange.estimate = self._estimate(exchange, exchange.identity, body)
        every_s = self._settings.hold_keepalive_s
        if every_s is None or not body.stream:
            return await self._answered(request, raw, exchange, None)
        timeout_s = self._settings.client_timeout_s
        headers = partial(self._response_headers, exchange)
        async with held_open(request, exchange, headers, every_s=every_s, client_timeout_s=timeout_s) as held:
            return await self._answered(request, raw, exchange, held)

    async def _answered(
        self, request: web.BaseRequest, raw: bytes, exchange: Exchange, held: HeldStream | None
    ) -> web.StreamResponse:
        """Wait, send, relay; again where an engine took nothing of it."""
        assert exchange.identity is not None and exchange.estimate is not None
        failures = refusals = 0
        while True:
            self._books.waits(exchange)
            queued = self._queued(exchange, exchange.identity, exchange.estimate, len(raw))
            await self._wait(request, raw, queued, exchange)
            try:
                return await self._exchange_with_engine(request, raw, queued, exchange, held)
            except EngineUnreachable:
                # Nothing was sent, so it is safe to take another engine, or this one when it is back.
                self._health.note(queued.replica or "", available=False)
                failures += 1
                if failures == _ATTEMPTS:
                    raise
            except EngineFull:
                # Several answers may be more than its queue ever takes: no reason to send others later.
                if queued.answers > 1:
                    raise
                self._dispatcher.refused(queued)
                refusals += 1
                if refusals == _MOST_REFUSALS:
                    raise
                exchange.begin_again()
            finally:
                self._dispatcher.release(queued)

    async def _wait(
        self, request: web.BaseRequest, raw: bytes, queued: QueuedRequest, exchange: Exchange
    ) -> None:
        """Wait for a place at an engine; meanwhile its model may be asked how long the answer will be."""
        if self._asker is None or not self._asker.listens(exchange):
            await self._dispatcher.admit(queued)
            return

        def send(query: SelfQuery, engine: str) -> Awaitable[bytes]:
            return self._sender.ask(request, query, engine, exchange, pass_key=not self.identities.uses_keys)

        self._asker.waits(Candidate(queued, exchange, raw, send))
        try:
            await self._dispatcher.admit(queued)
        finally:
            self._asker.leaves(queued)

    def _check_owner(self, body: RequestBody, identity: Identity) -> None:
        """Nobody goes on from a response that another key created."""
        previous = body.previous_response_id
        if previous is None or not self.identities.uses_keys:
            return
        if self._owners.find(previous, identity.key) is None:
            message = f"No response '{previous[:80]}' was created here with your key."
            raise UnknownResponse(message, param="previous_response_id")

    def _estimate(self, exchange: Exchange, identity: Identity, body: RequestBody) -> Estimate:
        return self._estimator.estimate(
            InferenceRequest(
                exchange.request_id,
                exchange.api,
                body,
                exchange.arrival_us,
                tenant=identity.tenant,
                class_name=identity.service.name,
            )
        )

    def _queued(
        self, exchange: Exchange, identity: Identity, estimate: Estimate, body_bytes: int
    ) -> QueuedRequest:
        body = exchange.body or RequestBody()
        owner = self._owners.find(body.previous_response_id or "", identity.key)
        ttl_s = identity.ttl_s
        return QueuedRequest(
            seq=next(self._seq),
            request_id=exchange.request_id,
            arrival_us=exchange.arrival_us,
            prediction=estimate.prediction,
            class_name=identity.service.name,
            tenant=identity.tenant,
            prompt_tokens=guessed_tokens(prompt_characters(body)),
            body_bytes=body_bytes,
            streamed=bool(body.stream),
            answers=body.answer_count,
            deadline_us=None if ttl_s is None else exchange.arrival_us + round(ttl_s * 1e6),
            kept_at=None if owner is None else owner.replica,
        )

    async def _exchange_with_engine(
        self,
        request: web.BaseRequest,
        raw: bytes,
        queued: QueuedRequest,
        exchange: Exchange,
        held: HeldStream | None,
    ) -> web.StreamResponse:
        exchange.key_us = queued.key_us
        exchange.replica = queued.replica
        exchange.dispatched_us = queued.dispatched_us
        if not self._waits_in_engine(queued):
            self._books.began(exchange)
        async with self._sender.sent(request, raw, exchange, pass_key=not self.identities.uses_keys) as (
            engine,
            outgoing,
        ):
            return await self._relay(request, queued, exchange, held).answer(
                engine, self._response_headers(exchange), drop_usage=outgoing.added_usage
            )

    def _waits_in_engine(self, queued: QueuedRequest) -> bool:
        """Whether it is its first byte that shows that it has begun; of what is no stream that comes with the last.

        Elsewhere all begin as they are sent, streams too. Of a crowd's streams and unary answers that began at one time
        by first byte and by dispatch, the streams, which are long, were sent earlier, because they were predicted
        shorter: to compare these took the order from good rankers.
        """
        return queued.streamed and self._settings.mode == "engine"

    def _relay(
        self, request: web.BaseRequest, queued: QueuedRequest, exchange: Exchange, held: HeldStream | None
    ) -> Relay:
        def engine_began() -> None:
            self._dispatcher.began(queued)
            if self._waits_in_engine(queued):
                self._books.began(exchange)

        def engine_done() -> None:
            self._dispatcher.release(queued, exchange.actual_tokens(), exchange.engine_queue_ms)
            if self._asker is not None:
                # Not on this request's path: its client waits for the rest of the answer.
                asyncio.get_running_loop().call_soon(self._asker.place_freed, queued.replica or "")

        return Relay(
            self._upstream,
            self._clock,
            request,
            exchange,
            engine_began=engine_began,
            engine_done=engine_done,
            is_full=self._engines.adapter(queued.replica or "").is_full,
            client_timeout_s=self._settings.client_timeout_s,
            held=held,
        )

    def _policy_name(self, exchange: Exchange) -> str:
        name = exchange.identity.service.name if exchange.identity else self._settings.default_class
        return self._dispatcher.scheduler.policy_of(name).name

    def _response_headers(self, exchange: Exchange) -> dict[str, str]:
        ours = {names.REQUEST_ID: exchange.request_id, names.POLICY: self._policy_name(exchange)}
        if exchange.estimate is not None:
            ours[names.PREDICTED_TOKENS] = str(round(exchange.estimate.prediction.tokens))
            ours[names.ARTIFACT] = exchange.estimate.artifact or self._estimator.artifact_id
        waited_until_us = exchange.dispatched_us or self._clock.now_us()
        ours[names.QUEUE_MS] = f"{(waited_until_us - exchange.arrival_us) / 1000:.1f}"
        return ours
