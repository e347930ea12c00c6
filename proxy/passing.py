"""Routes that are relayed and not scheduled: embeddings, tokenize, the model list, …"""

import asyncio

import aiohttp
from aiohttp import web

from proxy.errors import HeadwayError
from proxy.headers import to_client, to_engine
from proxy.ingress import read_body, target
from proxy.replies import error_response
from proxy.scheduling.scheduler import Scheduler
from proxy.settings import Settings
from proxy.upstream import Upstream


class Passing:
    """Relays a request to the first engine that is there, unread."""

    def __init__(
        self, settings: Settings, scheduler: Scheduler, upstream: Upstream, api_key: str | None
    ) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self._upstream = upstream
        self._api_key = api_key

    async def serve(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Relay one request to the engine's route `path`."""
        try:
            return await self._serve(request, path)
        except HeadwayError as error:
            return error_response(error)

    async def _serve(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        body = None
        if request.method != "GET":
            body = await read_body(request, timeout_s=self._settings.body_timeout_s)
        base = self._pick()
        headers = to_engine(request.headers, {}, self._api_key)
        engine = await self._upstream.open(base, request.method, target(request, path), headers, body)
        try:
            return await self._relay(request, engine, base)
        finally:
            engine.close()

    def _pick(self) -> str:
        replicas = self._scheduler.replicas
        return next((replica.name for replica in replicas if replica.available), replicas[0].name)

    async def _relay(
        self, request: web.BaseRequest, engine: aiohttp.ClientResponse, base: str
    ) -> web.StreamResponse:
        first = await self._upstream.read(engine, base)
        response = web.StreamResponse(
            status=engine.status, reason=engine.reason, headers=to_client(engine.headers, {})
        )
        await response.prepare(request)
        try:
            chunk = first
            while chunk:
                await response.write(chunk)
                chunk = await self._upstream.read(engine, base)
        except HeadwayError as error:
            if request.transport is not None:
                request.transport.close()
            raise asyncio.CancelledError(error.message) from error
        await response.write_eof()
        return response
