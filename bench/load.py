"""A closed-loop load generator over raw sockets: so many connections, each with one request at a time."""

import asyncio
import time
from typing import cast

import msgspec

from bench.http_reading import AnswerReader, HttpError


class Load(msgspec.Struct, frozen=True):
    """What to send: `request` are the bytes of one request; `events` that its answer must hold, 0 for unary.

    `count` requests in all over `connections`; after `limit_s` seconds no new one is sent.
    """

    request: bytes
    connections: int
    count: int
    events: int = 0
    limit_s: float = 2.0


class Sample(msgspec.Struct):
    """What was measured: `e2e_s` and `first_s` one per answer, `gaps_s` one per event after the first."""

    e2e_s: list[float] = msgspec.field(default_factory=list)
    first_s: list[float] = msgspec.field(default_factory=list)
    gaps_s: list[float] = msgspec.field(default_factory=list)
    wall_s: float = 0.0

    @property
    def answers(self) -> int:
        """Requests answered."""
        return len(self.e2e_s)

    @property
    def events(self) -> int:
        """Events delivered."""
        return len(self.first_s) + len(self.gaps_s)


class _Run:
    """The requests still to send, shared by all connections."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.sample = Sample()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = load.count
        self._busy = 0
        self._deadline_s = time.perf_counter() + load.limit_s

    def take(self) -> bool:
        """Whether one more request may be sent."""
        if self._left == 0 or time.perf_counter() > self._deadline_s:
            return False
        self._left -= 1
        self._busy += 1
        return True

    def give_back(self) -> None:
        """An answer is complete."""
        self._busy -= 1

    def end_if_idle(self) -> None:
        """Nobody sends any more and nothing is on its way: done."""
        if not self._busy and not self.ended.done():
            self.ended.set_result(None)

    def fail(self, error: Exception) -> None:
        """The measurement is void."""
        if not self.ended.done():
            self.ended.set_exception(error)


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._reader = AnswerReader(counts_events=False)
        self._sent_s = 0.0
        self._event_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.fail(HttpError(f"the connection was closed ({exc})"))

    def send(self) -> None:
        """Send the next request, if there is one."""
        if not self._run.take():
            self._run.end_if_idle()
            return
        self._reader = AnswerReader(counts_events=self._run.load.events > 0)
        self._event_s = 0.0
        self._sent_s = time.perf_counter()
        self.transport.write(self._run.load.request)

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        before = self._reader.events
        try:
            complete = self._reader.feed(data)
        except (HttpError, ValueError) as error:
            self._run.fail(error)
            return
        if self._reader.events > before:
            self._note_events(now_s, self._reader.events - before)
        if complete:
            self._end(now_s, data)

    def _note_events(self, now_s: float, events: int) -> None:
        sample = self._run.sample
        if self._event_s:
            sample.gaps_s.append(now_s - self._event_s)
        else:
            sample.first_s.append(now_s - self._sent_s)
        # Events that came together follow each other at once.
        sample.gaps_s.extend([0.0] * (events - 1))
        self._event_s = now_s

    def _end(self, now_s: float, data: bytes) -> None:
        run, reader = self._run, self._reader
        if reader.status != 200:
            run.fail(HttpError(f"answered {reader.status}: {data[-300:]!r}"))
        elif reader.events != run.load.events:
            run.fail(HttpError(f"a stream with {reader.events} events instead of {run.load.events}"))
        else:
            run.sample.e2e_s.append(now_s - self._sent_s)
            run.give_back()
            self.send()


async def drive(port: int, load: Load) -> Sample:
    """Send a load to 127.0.0.1 and measure.

    Raises HttpError where an answer is not the expected one, OSError where nobody listens.
    """
    loop = asyncio.get_running_loop()
    run = _Run(load)
    connections = []
    for _ in range(load.connections):
        _, connection = await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port)
        connections.append(connection)
    try:
        started_s = time.perf_counter()
        for connection in connections:
            connection.send()
        await run.ended
        run.sample.wall_s = time.perf_counter() - started_s
    finally:
        for connection in connections:
            connection.transport.abort()
    return run.sample
