"""A stream that is open before its answer begins, so that nobody between client and proxy takes a wait for a fault."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from proxy.client_side import cut, sent
from proxy.errors import HeadwayError
from proxy.exchange import Exchange
from proxy.headers import QUEUE_MS
from proxy.replies import error_event

# Readers of server-sent events pass over comments.
_COMMENT: Final = b": waiting\n\n"
_HEADERS: Final = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class HeldStream:
    """Sends a comment after every `every_s` seconds without an answer; the first one opens the response, with 200."""

    def __init__(
        self, request: web.BaseRequest, every_s: float, headers: Callable[[], Mapping[str, str]]
    ) -> None:
        """`headers`: of the response, asked for when it opens."""
        self._request = request
        self._every_s = every_s
        self._headers = headers
        self._response: web.StreamResponse | None = None
        self._over = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def opened(self) -> web.StreamResponse | None:
        """The response, None where there was no comment yet. None follows: what is written now stays whole."""
        self._over.set()
        await self._task
        return self._response

    def close(self) -> None:
        """The exchange is over, in whatever way."""
        self._task.cancel()

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._over.wait()
                return
            except TimeoutError:
                pass
            try:
                await self._comment()
            except ConnectionError:
                # The client is gone: aiohttp cancels the handler, which ends the exchange.
                return

    async def _comment(self) -> None:
        transport = self._request.transport
        if transport is None or transport.get_write_buffer_size():
            # A client that takes nothing would only be left more to take.
            return
        if self._response is None:
            ours = self._headers()
            # Not known before the wait is over.
            response = web.StreamResponse(headers=_HEADERS | {n: v for n, v in ours.items() if n != QUEUE_MS})
            await response.prepare(self._request)
            self._response = response
        await self._response.write(_COMMENT)


@asynccontextmanager
async def held_open(
    request: web.BaseRequest,
    exchange: Exchange,
    headers: Callable[[], Mapping[str, str]],
    *,
    every_s: float,
    client_timeout_s: float,
) -> AsyncIterator[HeldStream]:
    """Keep a streaming client's connection busy within the block. A refusal after a comment is its last event."""
    held = HeldStream(request, every_s, headers)
    try:
        yield held
    except HeadwayError as error:
        response = await held.opened()
        if response is None:
            raise
        exchange.status = response.status
        event = error_event(error, exchange.api)
        await sent(request, response.write(event), len(event), client_timeout_s)
        cut(request, exchange, error)
    finally:
        held.close()
