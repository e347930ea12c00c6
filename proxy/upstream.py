"""Connections to the engines: every aiohttp default that would break a proxy is set here on purpose."""

import asyncio
import io
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import Draining, EngineGarbage, EngineLost, EngineTimeout, EngineUnreachable, HeadwayError
from proxy.settings import Settings

# aiohttp writes longer byte strings in one go and warns; a file object is sent piece by piece.
_SEND_WHOLE_BYTES: Final = 1 << 20
_CLOSED: Final = "This proxy has shut down before the answer was complete."
# ValueError: aiohttp raises it for a status line or header that cannot be decoded.
_ENGINE_FAILURES: Final = (aiohttp.ClientError, TimeoutError, OSError, ValueError)

_T = TypeVar("_T")


class Upstream:
    """An aiohttp client session made for relaying: no limits, no decoding, no redirects, no cookies."""

    def __init__(self, settings: Settings) -> None:
        self._urls: dict[tuple[str, str], URL] = {}
        self._closed = False
        self._users: set[asyncio.Task[Any]] = set()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                # Below the engine's own (vLLM: 5 s), so that a POST never meets a connection just closed.
                keepalive_timeout=settings.engine_keepalive_s,
                ttl_dns_cache=10,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.engine_timeout_s
            ),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
            read_bufsize=1 << 18,
        )

    async def close(self) -> None:
        """Close every connection; whoever still sends or reads gets Draining."""
        self._closed = True
        for task in self._users:
            task.cancel()
        await self._session.close()

    async def open(
        self, base: str, method: str, path: str, headers: CIMultiDict[str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the status line.

        Raises EngineUnreachable where nothing was sent, else EngineLost, EngineGarbage or EngineTimeout;
        Draining once `close` was called.
        """
        if self._closed:
            raise Draining(_CLOSED)
        data = io.BytesIO(body) if body is not None and len(body) > _SEND_WHOLE_BYTES else body
        response = await self._interruptible(
            base,
            self._session.request(
                method, self._url(base, path), headers=headers, data=data, allow_redirects=False
            ),
        )
        if response.status < 200:
            response.close()
            raise EngineGarbage(f"The engine at {base} answered with the status {response.status}.")
        return response

    async def read(self, response: aiohttp.ClientResponse, base: str) -> bytes:
        """The next bytes of an answer; empty at its end. Raises EngineLost, EngineTimeout or Draining."""
        if self._closed:
            raise Draining(_CLOSED)
        return await self._interruptible(base, response.content.readany())

    async def _interruptible(self, base: str, operation: Awaitable[_T]) -> _T:
        """Wait for the engine, but not beyond `close`: aiohttp leaves whoever reads then waiting for ever."""
        task = asyncio.current_task()
        assert task is not None
        self._users.add(task)
        try:
            return await operation
        except _ENGINE_FAILURES as error:
            raise _translate(error, base) from error
        except asyncio.CancelledError:
            if not self._closed:
                raise
            task.uncancel()
            raise Draining(_CLOSED) from None
        finally:
            self._users.discard(task)

    def _url(self, base: str, path: str) -> URL:
        known = self._urls.get((base, path))
        if known is not None:
            return known
        url = URL(base.rstrip("/") + path, encoded=True)
        if "?" not in path:
            self._urls[base, path] = url
        return url


def _translate(error: Exception, base: str) -> HeadwayError:
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return EngineUnreachable(f"No connection to the engine at {base}: {_reason(error)}")
    if isinstance(error, aiohttp.SocketTimeoutError | TimeoutError):
        return EngineTimeout(f"The engine at {base} sent nothing for too long.")
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL | ValueError):
        return EngineGarbage(f"The engine at {base} did not answer in HTTP: {_reason(error)}")
    return EngineLost(f"The engine at {base} closed the connection: {_reason(error)}")


def _reason(error: Exception) -> str:
    """One line of an exception's text, its class where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
