"""An engine's answer while it comes, and the connection that it comes over."""

import asyncio
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage

_OCTETS: Final = "application/octet-stream"


class EngineAnswer:
    """An engine's answer: its status and headers have come, `Upstream.read` gives the body as it comes."""

    def __init__(
        self,
        connection: Connection,
        message: RawResponseMessage,
        content: aiohttp.StreamReader,
        sending: asyncio.Task[None] | None,
        unread: "dict[ResponseHandler, EngineAnswer]",
    ) -> None:
        """`sending` still writes the request's body; `unread` holds this answer until its end or `close`."""
        self.status = message.code
        self.reason = message.reason
        self.headers = message.headers
        self.content = content
        self._connection: Connection | None = connection
        self._sending = sending
        self._unread = unread
        assert connection.protocol is not None, "an answer came over it"
        self._protocol = connection.protocol
        unread[self._protocol] = self
        content.on_eof(self._end)

    @property
    def content_type(self) -> str:
        """The media type alone, in lower case; application/octet-stream where the engine names none."""
        return self.headers.get("Content-Type", _OCTETS).partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int | None:
        """The body's declared length; None where there is none."""
        length = self.headers.get("Content-Length")
        return None if length is None else int(length)

    def close(self) -> None:
        """Have done with it. Where its end has not come the connection is closed, so that the engine aborts."""
        connection = self._let_go()
        if connection is None:
            return
        if self._is_sending:
            abort(self._protocol)
        connection.close()

    def fail(self, error: Exception) -> None:
        """Whoever reads gets the error, unless the end or another error has come."""
        if not self.content.is_eof() and self.content.exception() is None:
            self.content.set_exception(error)

    def _end(self) -> None:
        """The last byte has come; the connection can serve again if the request went out whole."""
        if self._is_sending:
            self.close()
        elif (connection := self._let_go()) is not None:
            connection.release()

    def _let_go(self) -> Connection | None:
        connection, self._connection = self._connection, None
        if connection is not None:
            del self._unread[self._protocol]
        return connection

    @property
    def _is_sending(self) -> bool:
        return self._sending is not None and not self._sending.done()


def abort(protocol: ResponseHandler) -> None:
    """End the connection now: a plain close would wait until the engine has read all that was written."""
    if protocol.transport is not None:
        protocol.transport.abort()
