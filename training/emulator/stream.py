"""Server-sent events straight to the socket: one write per sequence and iteration, no task woken for it."""

import asyncio
from typing import Final

from training.emulator.faults import Faults

_ERROR_EVENTS: Final = (
    b'data: {"error":{"message":"The engine has failed: this is an emulated fault.",'
    b'"type":"InternalServerError","param":null,"code":500}}\n\ndata: [DONE]\n\n'
)


class EventStream:
    """Writes events as HTTP chunks to the transport of a chunked response, once its headers are out.

    400 streams of 50 tokens a second cannot afford a coroutine and a wake-up per token. There is no
    back-pressure: an answer is small, and a client that does not read costs no more memory than its answer.
    `broken` resolves when a fault ends the stream: True if the connection can still be closed in good order.
    """

    def __init__(self, faults: Faults) -> None:
        self.broken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._faults = faults
        self._transport: asyncio.Transport | None = None
        self._early = b""
        self._tokens = 0

    def attach(self, transport: asyncio.Transport) -> None:
        """The headers are out: write there, and at once what came before."""
        self._transport = transport
        if self._faults.error_first:
            self._fail()
        self.send(self._early)

    def send(self, events: bytes) -> None:
        """Write events that are no token's."""
        if self._transport is None:
            self._early += events
        elif events and not self.broken.done() and not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(events), events))

    def send_token(self, events: bytes) -> None:
        """Write a token's events, unless a fault comes first."""
        if self._transport is not None and not self.broken.done():
            self._break_if_due(self._transport)
        self._tokens += 1
        self.send(events)

    def _break_if_due(self, transport: asyncio.Transport) -> None:
        if self._tokens == self._faults.error_after:
            self._fail()
        elif self._tokens == self._faults.cut_after:
            transport.abort()
            self.broken.set_result(False)
        elif self._tokens == self._faults.half_close_after:
            transport.write_eof()
            self.broken.set_result(False)

    def _fail(self) -> None:
        self.send(_ERROR_EVENTS)
        self.broken.set_result(True)
