"""What is sent to a client: never longer in the way than a client that takes it would need."""

import asyncio
from collections.abc import Awaitable
from typing import Final, NoReturn

from aiohttp import web

from proxy.errors import HeadwayError
from proxy.exchange import Exchange
from proxy.upstream import say_failed

# What an empty socket buffer takes whatever its client does: writing it waits for nobody.
BUFFERED_BYTES: Final = 32 << 10


async def sent(request: web.BaseRequest, sending: Awaitable[None], size: int, limit_s: float) -> None:
    """Await the sending of `size` bytes. A client that takes nothing for `limit_s` seconds is as good as gone, and would
    keep its place at the engine for ever: it is cut off. Raises ConnectionResetError."""
    transport = request.transport
    backlog = transport.get_write_buffer_size() if transport is not None else 0
    if not backlog and size <= BUFFERED_BYTES:
        await sending
        return
    try:
        async with asyncio.timeout(limit_s):
            await sending
    except TimeoutError as error:
        if transport is not None:
            transport.abort()
        raise ConnectionResetError("the client takes nothing of its answer (client_timeout_s)") from error


async def sent_whole(
    request: web.BaseRequest, response: web.StreamResponse, body: bytes, limit_s: float
) -> None:
    """Send a body that is all there, piece by piece: a slow client that takes some of it is not cut off."""
    response.content_length = len(body)
    await response.prepare(request)
    view = memoryview(body)
    for start in range(0, len(body), BUFFERED_BYTES):
        piece = view[start : start + BUFFERED_BYTES]
        await sent(request, response.write(piece), len(piece), limit_s)
    await sent(request, response.write_eof(), 0, limit_s)


def cut(request: web.BaseRequest, exchange: Exchange, error: HeadwayError) -> NoReturn:
    """An answer that has begun ends here: the connection closes without a last chunk, so that nobody takes it for
    whole. Raises ConnectionResetError."""
    say_failed(f"request {exchange.request_id}", error)
    exchange.end(error.outcome)
    if request.transport is not None:
        request.transport.close()
    raise ConnectionResetError(error.message) from error
