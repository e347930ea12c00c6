"""Connections to the engines: every aiohttp default that would break a proxy is set here on purpose."""

import io
from typing import Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import EngineGarbage, EngineLost, EngineTimeout, EngineUnreachable, HeadwayError
from proxy.settings import Settings

# aiohttp writes longer byte strings in one go and warns; a file object is sent piece by piece.
_SEND_WHOLE_BYTES: Final = 1 << 20
# ValueError: aiohttp raises it for a status line or header that cannot be decoded.
_ENGINE_FAILURES: Final = (aiohttp.ClientError, TimeoutError, OSError, ValueError)


class Upstream:
    """An aiohttp client session made for relaying: no limits, no decoding, no redirects, no cookies."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._urls: dict[tuple[str, str], URL] = {}
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
        """Close every connection."""
        await self._session.close()

    async def open(
        self, base: str, method: str, path: str, headers: CIMultiDict[str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the status line.

        Raises EngineUnreachable where nothing was sent, else EngineLost, EngineGarbage or EngineTimeout.
        """
        data = io.BytesIO(body) if body is not None and len(body) > _SEND_WHOLE_BYTES else body
        try:
            response = await self._session.request(
                method, self._url(base, path), headers=headers, data=data, allow_redirects=False
            )
        except _ENGINE_FAILURES as error:
            raise _translate(error, base) from error
        if response.status < 200:
            response.close()
            raise EngineGarbage(f"The engine at {base} answered with the status {response.status}.")
        return response

    async def read(self, response: aiohttp.ClientResponse, base: str) -> bytes:
        """The next bytes of an answer; empty at its end. Raises EngineLost or EngineTimeout."""
        try:
            return await response.content.readany()
        except _ENGINE_FAILURES as error:
            raise _translate(error, base) from error

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
