"""The HTTP server: aiohttp's protocol with every default that matters to a proxy set on purpose."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from proxy.errors import BadHttp, HeadersTooLarge, HeadwayError, InternalError
from proxy.replies import error_response
from proxy.settings import Settings

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
BACKLOG: Final = 4096
_MAX_HEADERS: Final = 128
# What a drain has not waited for is cut; this is for answers that are on their way out.
_SHUTDOWN_S: Final = 1.0


class _Protocol(web.RequestHandler):
    """One client connection; what is not HTTP is refused in the OpenAI error shape."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            # The client has gone, or its answer was cut on purpose: the connection ends without a word.
            raise exc
        error = _protocol_error(status, exc, message)
        if isinstance(error, InternalError):
            self.log_exception("failed outside of any request", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionResetError("a second answer would corrupt the one that has begun")
        response = error_response(error)
        response.force_close()
        return response


def _protocol_error(status: int, exc: BaseException | None, message: str | None) -> HeadwayError:
    if status >= 500:
        return InternalError(f"Headway failed: {type(exc).__name__}; see its log.")
    reason = next(iter((message or str(exc)).splitlines()), "it is empty")
    if isinstance(exc, LineTooLong) or "too many headers" in reason.lower():
        return HeadersTooLarge(f"The request's headers are too large: {reason}")
    return BadHttp(f"This is not an HTTP request that can be read: {reason}")


class HttpServer(web.Server):
    """Makes a protocol per connection, with our limits."""

    def __init__(self, handler: Handler, settings: Settings) -> None:
        self._max_body_bytes = settings.max_body_bytes
        super().__init__(
            handler,
            request_factory=self._request,
            # Off by default in production: a client that goes away must end its handler.
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=settings.keepalive_s,
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
            max_headers=_MAX_HEADERS,
            # Bodies go to the engine as they came.
            auto_decompress=False,
            lingering_time=1.0,
        )

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: Any,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=self._max_body_bytes
        )


class Listener:
    """A listening socket in front of a handler."""

    def __init__(self, handler: Handler, settings: Settings, host: str, port: int) -> None:
        self._handler = handler
        self._settings = settings
        self._host = host
        self._port = port
        self._runner: web.ServerRunner | None = None

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError where it is taken."""
        runner = web.ServerRunner(HttpServer(self._handler, self._settings), shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, backlog=BACKLOG)
        await site.start()
        self._runner = runner
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening and end what is still open."""
        if self._runner is not None:
            await self._runner.cleanup()
