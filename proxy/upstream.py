"""Connections to the engines: aiohttp's connector, protocol and parser, every limit set on purpose.

Not aiohttp's session: it prepares each request for redirects, cookies, proxies and authentication, which a relay
has no use for and which costs as much as all the rest of a request's way.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from weakref import WeakSet

import aiohttp
import msgspec
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage, StreamWriter
from multidict import CIMultiDict
from yarl import URL

from proxy.engine_answer import EngineAnswer, abort
from proxy.errors import Draining, EngineGarbage, EngineLost, EngineTimeout, EngineUnreachable, HeadwayError
from proxy.settings import Settings, SettingsError

_LOG: Final = logging.getLogger("headway.engines")
# A body up to this long goes out in one write with its headers; a longer one while the answer is awaited.
_SEND_WHOLE_BYTES: Final = 1 << 16
_PIECE_BYTES: Final = 1 << 18
_READ_BYTES: Final = 1 << 18
_CLOSE_S: Final = 5.0
_CLOSED: Final = "This proxy has shut down before the answer was complete."
# ValueError: aiohttp raises it for a status line or header that cannot be decoded.
_ENGINE_FAILURES: Final = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError)


class _Engine(msgspec.Struct, frozen=True):
    """Where an engine is. `key` tells the connector what to connect to; it is never sent."""

    key: aiohttp.ClientRequest
    host: str
    prefix: str


class Upstream:
    """Sends requests to engines over connections that it keeps, without a limit to their number."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError where `engine_ca_file` cannot be used."""
        self._settings = settings
        self._engines: dict[str, _Engine] = {}
        self._closed = False
        self.lost: Callable[[str], None] | None = None
        """Told of an engine that broke a connection in the midst of an exchange."""
        self._unanswered: set[ResponseHandler] = set()
        self._unread: dict[ResponseHandler, EngineAnswer] = {}
        self._watched: WeakSet[ResponseHandler] = WeakSet()
        self._connect_timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s)
        self._connector = aiohttp.TCPConnector(
            limit=0,
            # Below the engine's own (vLLM: 5 s), so that a POST never meets a connection just closed.
            keepalive_timeout=settings.engine_keepalive_s,
            ttl_dns_cache=10,
            ssl=_trusted(settings.engine_ca_file),
        )

    async def close(self) -> None:
        """Close every connection; whoever still sends or reads gets Draining. Takes a few seconds at most."""
        self._closed = True
        # aiohttp itself would leave whoever reads waiting for ever, and wait for an engine to read what was sent.
        for protocol in self._unanswered:
            protocol.set_exception(Draining(_CLOSED))
        for answer in self._unread.values():
            answer.content.set_exception(Draining(_CLOSED))
        for protocol in (*self._unanswered, *self._unread):
            abort(protocol)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._connector.close()

    async def open(
        self, base: str, method: str, path: str, headers: CIMultiDict[str], body: bytes | None
    ) -> EngineAnswer:
        """Send a request and wait for the status line. `headers` gets the engine's Host and the length.

        Raises EngineUnreachable where nothing was sent, else EngineLost, EngineGarbage or EngineTimeout;
        Draining once `close` was called.
        """
        if self._closed:
            raise Draining(_CLOSED)
        engine = self._engine(base)
        headers["Host"] = engine.host
        if body is not None:
            headers["Content-Length"] = str(len(body))
        connection = await self._connect(engine, base)
        try:
            line = f"{method} {engine.prefix}{path} HTTP/1.1"
            return await self._exchange(connection, line, headers, body or b"")
        except BaseException as error:
            # Failed or cancelled, it is in the middle of something: nobody can use it again.
            connection.close()
            if isinstance(error, _ENGINE_FAILURES):
                raise self._failed(error, base) from error
            raise

    def forget(self, base: str) -> None:
        """An engine is gone for good."""
        self._engines.pop(base, None)

    async def read(self, answer: EngineAnswer, base: str) -> bytes:
        """The next bytes of an answer; empty at its end. Raises EngineLost, EngineTimeout or Draining."""
        try:
            return await answer.content.readany()
        except _ENGINE_FAILURES as error:
            raise self._failed(error, base) from error

    def _failed(self, error: Exception, base: str) -> HeadwayError:
        failure = _translate(error, base)
        if self.lost is not None and isinstance(failure, EngineLost):
            self.lost(base)
        return failure

    def _engine(self, base: str) -> _Engine:
        known = self._engines.get(base)
        if known is None:
            url = URL(base)
            key = aiohttp.ClientRequest("GET", url, loop=asyncio.get_running_loop())
            known = _Engine(key, key.headers["Host"], url.raw_path.rstrip("/"))
            self._engines[base] = known
        return known

    async def _connect(self, engine: _Engine, base: str) -> Connection:
        try:
            return await self._connector.connect(engine.key, traces=[], timeout=self._connect_timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineUnreachable("No connection to the engine.", detail=_detail(base, error)) from error

    async def _exchange(
        self, connection: Connection, line: str, headers: CIMultiDict[str], body: bytes
    ) -> EngineAnswer:
        protocol = connection.protocol
        assert protocol is not None, "a new connection has one"
        self._watch(protocol)
        self._expect_answer(protocol)
        writer = StreamWriter(protocol, asyncio.get_running_loop())
        await writer.write_headers(line, headers)
        sending = None
        if len(body) > _SEND_WHOLE_BYTES:
            sending = asyncio.create_task(_send(writer, protocol, body))
        else:
            await writer.write_eof(body)
            protocol.start_timeout()
        self._unanswered.add(protocol)
        try:
            message, content = await _final_head(protocol)
        except BaseException:
            if sending is not None:
                abort(protocol)
            raise
        finally:
            self._unanswered.discard(protocol)
        return EngineAnswer(connection, message, content, sending, self._unread)

    def _watch(self, protocol: ResponseHandler) -> None:
        """Once per connection: aiohttp tells nobody who reads a body of a broken chunk in the midst of it, and of the
        end of a connection that had one."""
        if protocol in self._watched:
            return
        self._watched.add(protocol)

        def closed(future: asyncio.Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            if (answer := self._unread.get(protocol)) is not None:
                answer.fail(aiohttp.ClientPayloadError(f"it broke off: {error or 'not in HTTP'}"))

        if protocol.closed is not None:
            protocol.closed.add_done_callback(closed)

    def _expect_answer(self, protocol: ResponseHandler) -> None:
        protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=self._settings.engine_timeout_s,
            read_bufsize=_READ_BYTES,
            max_line_size=self._settings.max_header_bytes,
            max_field_size=self._settings.max_header_bytes,
        )


def _trusted(ca_file: str | None) -> ssl.SSLContext | bool:
    """What an engine's certificate is held against; raises SettingsError for a file without certificates."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SettingsError(f"engine_ca_file {ca_file}: {error}") from error


async def _send(writer: StreamWriter, protocol: ResponseHandler, body: bytes) -> None:
    """Send a long body as fast as the engine takes it."""
    view = memoryview(body)
    # A connection that breaks is noticed by whoever awaits the answer, which may have come before it broke.
    with suppress(OSError):
        for start in range(0, len(body), _PIECE_BYTES):
            # An engine that takes nothing is as silent as one that says nothing.
            protocol.start_timeout()
            await writer.write(view[start : start + _PIECE_BYTES])
        await writer.write_eof()
        protocol.start_timeout()


async def _final_head(protocol: ResponseHandler) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
    """The answer's head, after any interim ones. Raises HttpProcessingError for a switch of protocols."""
    while True:
        message, content = await protocol.read()
        if message.code == 101:
            raise HttpProcessingError(message="it switches protocols")
        if message.code >= 200:
            return message, content


def _translate(error: Exception, base: str) -> HeadwayError:
    if isinstance(error, aiohttp.SocketTimeoutError | TimeoutError):
        return EngineTimeout("The engine sent nothing for too long.", detail=base)
    if isinstance(error, HttpProcessingError | ValueError):
        return EngineGarbage("The engine did not answer in HTTP.", detail=_detail(base, error))
    return EngineLost("The engine closed the connection.", detail=_detail(base, error))


def _detail(base: str, error: Exception) -> str:
    """The engine, and one line of an exception's text, its class where it has none."""
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return f"{base}: {reason}"


def say_failed(request: str, error: HeadwayError) -> None:
    """Name the engine in the log that failed a request: its client is not told where engines are."""
    if error.detail:
        _LOG.warning("%s: %s", request, error)
