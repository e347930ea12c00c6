"""A TCP relay that records every byte in both directions, to hold what a client got against what was sent."""

import asyncio
import contextlib
from itertools import zip_longest
from typing import NamedTuple

from wire import Message, read_messages

_READ_BYTES = 1 << 16


class Exchange(NamedTuple):
    """One request and its answer as they went over the wire; None: nothing came."""

    request: Message
    answer: Message | None


class Recorded:
    """The bytes of one connection: `sent` by whoever connected, `received` by it."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.received = bytearray()

    def exchanges(self) -> list[Exchange]:
        """The connection's requests, each with its answer."""
        requests = read_messages(bytes(self.sent), bodiless=True)
        answers = read_messages(bytes(self.received))
        pairs = zip_longest(requests, answers)
        return [Exchange(request, answer) for request, answer in pairs if request is not None]


class RecordingRelay:
    """Listens on a free port of the loopback interface and passes everything on to `host`:`port`.

    Half-closes, resets and back-pressure pass through, so that either side sees what it would see without
    the relay. An async context manager, or `start()` and `stop()`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: list[Recorded] = []

    @property
    def url(self) -> str:
        """The base URL to connect to."""
        if self._server is None:
            raise RuntimeError("the relay is not started")
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    @property
    def exchanges(self) -> list[Exchange]:
        """Every request so far with its answer, connection by connection."""
        return [exchange for connection in self.connections for exchange in connection.exchanges()]

    def exchanges_of(self, path: str) -> list[Exchange]:
        """The exchanges of one route; the proxy also asks the engine for its health."""
        return [exchange for exchange in self.exchanges if exchange.request.path == path]

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=4096)

    async def stop(self) -> None:
        """Stop listening and reset what is still open; what was recorded stays."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._pass(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recorded = Recorded()
        self.connections.append(recorded)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, there_writer, recorded.sent))
                group.create_task(_pass_on(there_reader, writer, recorded.received))
        except* OSError:
            writer.transport.abort()
            there_writer.transport.abort()
        finally:
            writer.close()
            there_writer.close()

    async def __aenter__(self) -> "RecordingRelay":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def _pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter, record: bytearray) -> None:
    while data := await source.read(_READ_BYTES):
        record += data
        to.write(data)
        await to.drain()
    with contextlib.suppress(OSError):
        to.write_eof()
