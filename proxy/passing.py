"""Routes that are relayed and not scheduled: embeddings, tokenize, the model list, stored responses, …"""

import asyncio
from collections.abc import Callable

from aiohttp import web
from multidict import CIMultiDict

from predictor.records import Outcome
from proxy.client_side import sent
from proxy.engine_answer import EngineAnswer
from proxy.errors import SHUTTING_DOWN, Draining, EngineUnreachable, HeadwayError, UnknownResponse
from proxy.headers import steering_fields, to_client, to_engine
from proxy.identity import Identities, Identity
from proxy.ingress import read_body, target, without_steering
from proxy.metrics import Metrics
from proxy.owners import Owners
from proxy.replies import error_response
from proxy.routes import ROUTES, Handling, Route
from proxy.scheduling.scheduler import Scheduler
from proxy.settings import Settings
from proxy.upstream import Upstream, say_failed


class Passing:
    """Relays a request to the first engine that is there, or to the one that holds what it asks for."""

    def __init__(
        self,
        *,
        settings: Settings,
        scheduler: Scheduler,
        upstream: Upstream,
        identities: Callable[[], Identities],
        draining: Callable[[], bool],
        owners: Owners,
        metrics: Metrics,
        api_key: str | None,
    ) -> None:
        """`identities`: who may ask at present; `draining`: nobody may; `api_key`: the engine's."""
        self._settings = settings
        self._scheduler = scheduler
        self._upstream = upstream
        self._identities = identities
        self._draining = draining
        self._owners = owners
        self._api_key = api_key
        self._ended = metrics.counter(
            "headway_relayed_requests",
            "Requests of routes that are relayed and not scheduled, by route and how they ended.",
            ["route", "outcome"],
        )
        for route in ROUTES.values():
            if route.handling is Handling.RELAY:
                self._ended.labels(route.path, Outcome.COMPLETED.value)

    async def serve(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        """Relay one request to the engine's route; it is counted once, whatever happens."""
        outcome = Outcome.INTERNAL_ERROR
        try:
            response = await self._serve(request, route)
            outcome = Outcome.COMPLETED if response.status < 400 else Outcome.ENGINE_ERROR
            return response
        except HeadwayError as error:
            outcome = error.outcome
            say_failed(route.path, error)
            return error_response(error, path=request.path)
        except (asyncio.CancelledError, ConnectionError) as error:
            # An engine that is lost in mid-answer ends the client's connection too.
            cause = error.__cause__
            outcome = cause.outcome if isinstance(cause, HeadwayError) else Outcome.CLIENT_GONE
            raise
        finally:
            self._ended.labels(route.path, outcome.value).inc()

    async def preflight(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        """Relay a browser's question whether a page may send a request: it carries no key, and engines answer it
        before they look at the route."""
        headers = to_engine(request.headers, {}, None, pass_key=False)
        path = route.path_for(request.path)
        try:
            return await self._send(request, self._engines(), path, headers, None)
        except HeadwayError as error:
            say_failed(route.path, error)
            return error_response(error, path=request.path)

    async def _serve(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        if self._draining():
            raise Draining(SHUTTING_DOWN)
        identities = self._identities()
        identity = identities.identify(request.headers)
        bases = self._bases(route.response_id(request.path), identity, uses_keys=identities.uses_keys)
        body = None if request.method == "GET" else await self._body(request, route, identity)
        headers = to_engine(
            request.headers,
            {},
            self._api_key,
            pass_key=not identities.uses_keys,
            may_set_priority=identity.may_set_priority,
        )
        path = target(request, route.path_for(request.path))
        return await self._send(request, bases, path, headers, body)

    async def _send(
        self,
        request: web.BaseRequest,
        bases: list[str],
        path: str,
        headers: CIMultiDict[str],
        body: bytes | None,
    ) -> web.StreamResponse:
        engine, base = await self._open(bases, request.method, path, headers, body)
        try:
            return await self._relay(request, engine, base)
        finally:
            engine.close()

    async def _body(self, request: web.BaseRequest, route: Route, identity: Identity) -> bytes:
        raw = await read_body(request, timeout_s=self._settings.body_timeout_s)
        if not route.takes_json:
            return raw
        return without_steering(raw, steering_fields(None, may_set_priority=identity.may_set_priority))

    def _bases(self, response_id: str | None, identity: Identity, *, uses_keys: bool) -> list[str]:
        """The engines to try in turn; of a stored response, the one that holds it."""
        engines = self._engines()
        if response_id is not None:
            owner = self._owners.find(response_id, identity.key)
            if owner is not None:
                return [owner.replica]
            if uses_keys or len(engines) > 1:
                raise UnknownResponse(f"No response '{response_id[:80]}' was created here with your key.")
        return engines

    def _engines(self) -> list[str]:
        """Those believed to be there first."""
        replicas = sorted(self._scheduler.replicas, key=lambda replica: not replica.available)
        return [replica.name for replica in replicas]

    async def _open(
        self, bases: list[str], method: str, path: str, headers: CIMultiDict[str], body: bytes | None
    ) -> tuple[EngineAnswer, str]:
        """The first engine that takes the connection."""
        if not bases:
            raise EngineUnreachable("No engine has been found yet.")
        *before, last = bases
        for base in before:
            try:
                return await self._upstream.open(base, method, path, headers, body), base
            except EngineUnreachable:
                continue
        return await self._upstream.open(last, method, path, headers, body), last

    async def _relay(self, request: web.BaseRequest, engine: EngineAnswer, base: str) -> web.StreamResponse:
        limit_s = self._settings.client_timeout_s
        chunk = await self._upstream.read(engine, base)
        response = web.StreamResponse(
            status=engine.status, reason=engine.reason, headers=to_client(engine.headers, {})
        )
        response.content_length = engine.content_length
        await response.prepare(request)
        try:
            while chunk:
                await sent(request, response.write(chunk), len(chunk), limit_s)
                chunk = await self._upstream.read(engine, base)
        except HeadwayError as error:
            say_failed(request.path, error)
            # Half an answer is out: the connection ends, so that nobody takes it for whole.
            if request.transport is not None:
                request.transport.close()
            raise ConnectionResetError(error.message) from error
        await sent(request, response.write_eof(), 0, limit_s)
        return response
