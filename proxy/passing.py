"""Routes that are relayed and not scheduled: embeddings, tokenize, the model list, …"""

from collections.abc import Callable

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from proxy.errors import EngineUnreachable, HeadwayError
from proxy.headers import to_client, to_engine
from proxy.identity import Identities
from proxy.ingress import read_body, target
from proxy.replies import error_response
from proxy.scheduling.scheduler import Scheduler
from proxy.settings import Settings
from proxy.upstream import Upstream


class Passing:
    """Relays a request to the first engine that is there, unread."""

    def __init__(
        self,
        settings: Settings,
        scheduler: Scheduler,
        upstream: Upstream,
        identities: Callable[[], Identities],
        api_key: str | None,
    ) -> None:
        """`identities`: who may ask at present; `api_key`: the engine's."""
        self._settings = settings
        self._scheduler = scheduler
        self._upstream = upstream
        self._identities = identities
        self._api_key = api_key

    async def serve(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Relay one request to the engine's route `path`."""
        try:
            return await self._serve(request, path)
        except HeadwayError as error:
            return error_response(error)

    async def _serve(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        identities = self._identities()
        identities.identify(request.headers)
        body = None
        if request.method != "GET":
            body = await read_body(request, timeout_s=self._settings.body_timeout_s)
        headers = to_engine(request.headers, {}, self._api_key, pass_key=not identities.uses_keys)
        engine, base = await self._open(request.method, target(request, path), headers, body)
        try:
            return await self._relay(request, engine, base)
        finally:
            engine.close()

    async def _open(
        self, method: str, path: str, headers: CIMultiDict[str], body: bytes | None
    ) -> tuple[aiohttp.ClientResponse, str]:
        """The first engine that takes the connection, those that answered last time first."""
        replicas = sorted(self._scheduler.replicas, key=lambda replica: not replica.available)
        *before, last = [replica.name for replica in replicas]
        for base in before:
            try:
                return await self._upstream.open(base, method, path, headers, body), base
            except EngineUnreachable:
                continue
        return await self._upstream.open(last, method, path, headers, body), last

    async def _relay(
        self, request: web.BaseRequest, engine: aiohttp.ClientResponse, base: str
    ) -> web.StreamResponse:
        chunk = await self._upstream.read(engine, base)
        response = web.StreamResponse(
            status=engine.status, reason=engine.reason, headers=to_client(engine.headers, {})
        )
        response.content_length = engine.content_length
        await response.prepare(request)
        try:
            while chunk:
                await response.write(chunk)
                chunk = await self._upstream.read(engine, base)
        except HeadwayError as error:
            # Half an answer is out: the connection ends, so that nobody takes it for whole.
            if request.transport is not None:
                request.transport.close()
            raise ConnectionResetError(error.message) from error
        await response.write_eof()
        return response
