"""Engines behind a name: its addresses are asked for every few seconds, and come and go at run time."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from proxy.pool import Pool
from proxy.settings import DNS

_LOG: Final = logging.getLogger("headway.engines")
_INTERVAL_S: Final = 5.0
_FIRST_LOOK_S: Final = 3.0

Resolve = Callable[[str, int], Awaitable[set[str]]]


async def addresses_of(host: str, port: int) -> set[str]:
    """The addresses of a name, IPv6 in brackets. Raises OSError where it cannot be resolved."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = {str(address[4][0]) for address in found}
    return {f"[{address}]" if ":" in address else address for address in addresses}


class Discovery:
    """Keeps the pool's engines what the names say they are.

    A name that cannot be resolved changes nothing: engines that are really gone are found out by their health.
    """

    def __init__(self, pool: Pool, resolve: Resolve | None = None) -> None:
        self._found: dict[str, set[str]] = {}
        self._failed: set[str] = set()
        self._pool = pool
        self._resolve = resolve or addresses_of

    async def start(self, engines: Sequence[str]) -> None:
        """Add the engines that are given by their URLs, and those that names (dns+http://NAME:PORT) stand for now."""
        for url in (one.rstrip("/") for one in engines):
            if url.startswith(DNS):
                self._found[url] = set()
            else:
                self._pool.add(url)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_S):
                await self.look()

    async def run(self) -> None:
        """Look and sweep until cancelled."""
        while self._found:
            await asyncio.sleep(_INTERVAL_S)
            await self.look()
            self._pool.sweep()

    async def look(self) -> None:
        """Ask for every name once, and add and let go what has changed."""
        for url in self._found:
            try:
                engines = await self._engines_of(url)
            except (OSError, UnicodeError) as error:
                self._say_failed(url, error)
                continue
            self._failed.discard(url)
            before, self._found[url] = self._all(), engines
            for engine in sorted(self._all() - before):
                self._pool.add(engine)
            for engine in sorted(before - self._all()):
                _LOG.info(
                    "%s does not name %s any more: what runs there ends, nothing new goes there", url, engine
                )
                self._pool.leave(engine)

    async def _engines_of(self, url: str) -> set[str]:
        parts = urlsplit(url.removeprefix(DNS))
        port = parts.port or 80
        path = parts.path.rstrip("/")
        found = await self._resolve(parts.hostname or "", port)
        return {f"{parts.scheme}://{address}:{port}{path}" for address in found}

    def _all(self) -> set[str]:
        return set().union(*self._found.values())

    def _say_failed(self, url: str, error: Exception) -> None:
        if url not in self._failed:
            reason = getattr(error, "strerror", None) or error
            _LOG.warning("%s cannot be resolved (%s): the engines stay as they are", url, reason)
        self._failed.add(url)
