"""How the emulated engine's faults look on the wire, where an answer is not streamed."""

import asyncio
from typing import NoReturn

from aiohttp import web

from training.emulator.faults import Faults, Garbage
from training.emulator.request import ApiError


async def forever() -> NoReturn:
    """Wait until the client goes away, which cancels the handler."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets that event")


async def misbehave_before(request: web.Request, faults: Faults) -> None:
    """Faults that need no answer: a refusal, no reply at all, bytes that are not HTTP."""
    if faults.hang:
        await forever()
    if faults.refuse:
        raise ApiError(503, "The engine refuses: this is an emulated fault.", "Service Unavailable")
    if faults.garbage is Garbage.BYTES:
        _write_raw(request, b"\x16\x03\x01 this is not HTTP\r\n\r\n", close=True)
        await forever()


async def send_body(request: web.Request, body: bytes, faults: Faults) -> web.Response:
    """A unary answer, whole or broken."""
    if faults.error_first or faults.error_after is not None:
        raise ApiError(500, "The engine has failed: this is an emulated fault.", "InternalServerError")
    if faults.garbage is Garbage.JSON:
        body = body[: len(body) // 2]
    if faults.cut_after is not None or faults.garbage is Garbage.SHORT_BODY:
        _write_raw(request, _head(len(body)) + body[: len(body) // 2], close=True)
        await forever()
    if faults.half_close_after is not None:
        _write_raw(request, _head(len(body)) + body[: len(body) // 2], close=False)
        await forever()
    if faults.garbage is Garbage.LONG_BODY:
        _write_raw(request, _head(len(body) // 2) + body, close=True)
        await forever()
    return web.Response(body=body, content_type="application/json")


def _head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % length


def _write_raw(request: web.Request, data: bytes, *, close: bool) -> None:
    transport = request.transport
    if transport is None:
        return
    transport.write(data)
    if close:
        transport.close()
    else:
        transport.write_eof()
