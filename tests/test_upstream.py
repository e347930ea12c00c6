"""Connections to the engines: kept where they can serve again, closed where they cannot."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from multidict import CIMultiDict

from proxy.errors import Draining, EngineGarbage, EngineLost, EngineTimeout, EngineUnreachable
from proxy.settings import Settings
from proxy.upstream import Upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}"
LONG = b"x" * 3_000_000

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Engine:
    """A raw server that counts its connections and keeps the heads it read."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.connections = 0
        self.heads: list[bytes] = []
        self._serving: list[asyncio.Task[None]] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.append(task)
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            while not reader.at_eof():
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await self._serve(reader, writer)
        writer.transport.abort()

    async def stop(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving)


@contextlib.asynccontextmanager
async def upstream_to(
    serve: Serve, engine_timeout_s: float = 60.0, engine_keepalive_s: float = 30.0
) -> AsyncIterator[tuple[Upstream, str, Engine]]:
    """An Upstream, the base URL of a raw engine, and the engine."""
    engine = Engine(serve)
    server = await asyncio.start_server(engine.accept, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    limits = {"engine_timeout_s": engine_timeout_s, "engine_keepalive_s": engine_keepalive_s}
    upstream = Upstream(Settings(engine=(base,), **limits))
    try:
        yield upstream, base, engine
    finally:
        await upstream.close()
        server.close()
        await engine.stop()


async def body_of(upstream: Upstream, base: str, body: bytes = b"{}") -> tuple[int, bytes]:
    """Ask and read to the end: the status and the body."""
    answer = await upstream.open(base, "POST", "/v1/x?a=%20b", CIMultiDict(Accept="*/*"), body)
    with contextlib.closing(answer):
        parts = []
        while part := await upstream.read(answer, base):
            parts.append(part)
    return answer.status, b"".join(parts)


def answers(data: bytes) -> Serve:
    """An engine that reads the whole body and answers the same each time."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(data)

    return serve


async def test_a_connection_serves_one_request_after_another() -> None:
    """Answers read to their end leave a connection behind that the next request takes."""
    async with upstream_to(answers(OK)) as (upstream, base, engine):
        for _ in range(3):
            assert await body_of(upstream, base) == (200, b"{}")
        assert engine.connections == 1


async def test_an_idle_connection_is_given_up() -> None:
    """After `engine_keepalive_s` a connection is not used again, so that no POST meets one the engine is closing."""
    async with upstream_to(answers(OK), engine_keepalive_s=0.2) as (upstream, base, engine):
        for _ in range(2):
            assert await body_of(upstream, base) == (200, b"{}")
            await asyncio.sleep(0.5)
        assert engine.connections == 2


async def test_the_request_is_what_was_given() -> None:
    """Target and headers go as they are, with the engine's own Host and the body's length, each once."""
    async with upstream_to(answers(OK)) as (upstream, base, engine):
        await body_of(upstream, f"{base}/behind/")
    lines = engine.heads[0].decode().split("\r\n")
    assert lines[0] == "POST /behind/v1/x?a=%20b HTTP/1.1"
    assert sorted(filter(None, lines[1:])) == ["Accept: */*", "Content-Length: 2", f"Host: {base[7:]}"]


async def test_an_unread_answer_closes_its_connection() -> None:
    """Whoever closes early makes the engine abort, and nobody else meets the rest of that answer."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    async with upstream_to(answers(head + b"123")) as (upstream, base, engine):
        for _ in range(2):
            answer = await upstream.open(base, "POST", "/", CIMultiDict(), b"{}")
            answer.close()
        assert engine.connections == 2


async def test_a_cancelled_request_closes_its_connection() -> None:
    """A caller that goes away while the engine thinks leaves nothing behind that could be mixed up."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        assert await reader.read() == b""
        gone.set()

    async with upstream_to(serve) as (upstream, base, engine):
        task = asyncio.create_task(upstream.open(base, "POST", "/", CIMultiDict(), b"{}"))
        while not engine.heads:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()


async def test_a_long_body_arrives_whole() -> None:
    """Three megabytes go out piece by piece and unchanged, and the connection serves on."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(LONG)) == LONG
        writer.write(OK)

    async with upstream_to(serve) as (upstream, base, engine):
        for _ in range(2):
            assert await body_of(upstream, base, LONG) == (200, b"{}")
        assert engine.connections == 1


@pytest.mark.parametrize("closes", [False, True])
async def test_an_answer_may_come_before_the_body_has_gone(closes: bool) -> None:
    """An engine that refuses a long body unread is heard, and its connection is not used again."""
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(refusal)
        await writer.drain()
        if closes:
            writer.write_eof()
        await asyncio.Event().wait()

    async with upstream_to(serve) as (upstream, base, engine):
        for _ in range(2):
            # Longer than the kernel buffers, so that some of it is still to be sent.
            assert await body_of(upstream, base, 10 * LONG) == (413, b"big")
        assert engine.connections == 2


async def test_interim_answers_are_passed_over() -> None:
    """103 is not the answer; what follows it is."""
    async with upstream_to(answers(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)) as (upstream, base, _):
        assert await body_of(upstream, base) == (200, b"{}")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", EngineGarbage),
        (b"SSH-2.0-OpenSSH\r\n\r\n", EngineGarbage),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", EngineGarbage),
        (b"", EngineTimeout),
    ],
)
async def test_what_is_no_answer_is_named(data: bytes, error: type[Exception]) -> None:
    """Another protocol, too long a head, silence: each fails with its own error."""
    async with upstream_to(answers(data), engine_timeout_s=60 if data else 0.2) as (upstream, base, _):
        with pytest.raises(error):
            await upstream.open(base, "POST", "/", CIMultiDict(), b"{}")


async def test_a_closed_connection_is_lost_and_a_closed_port_unreachable() -> None:
    """Only where nothing can have been sent does the error allow another attempt."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with upstream_to(serve) as (upstream, base, _):
        with pytest.raises(EngineLost):
            await upstream.open(base, "POST", "/", CIMultiDict(), b"{}")
        with pytest.raises(EngineUnreachable):
            await upstream.open("http://127.0.0.1:1", "POST", "/", CIMultiDict(), b"{}")


async def test_an_answer_tells_its_type_and_length() -> None:
    """The media type comes bare and in lower case; what the engine does not declare has a neutral value."""
    async with upstream_to(answers(OK)) as (upstream, base, _):
        answer = await upstream.open(base, "POST", "/", CIMultiDict(), b"{}")
        assert (answer.content_type, answer.content_length) == ("application/json", 2)
        answer.close()
    async with upstream_to(answers(b"HTTP/1.1 200 OK\r\n\r\n{}")) as (upstream, base, _):
        answer = await upstream.open(base, "POST", "/", CIMultiDict(), b"{}")
        assert (answer.content_type, answer.content_length) == ("application/octet-stream", None)
        answer.close()


async def takes_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An engine that has stopped: it reads no body and says nothing."""
    await asyncio.Event().wait()


async def test_a_stop_waits_for_no_engine_that_takes_nothing() -> None:
    """Whoever sends a long body gets Draining, and the connections are closed although the engine reads nothing."""
    async with upstream_to(takes_nothing) as (upstream, base, engine):
        task = asyncio.create_task(upstream.open(base, "POST", "/", CIMultiDict(), 4 * LONG))
        while not engine.heads:
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await upstream.close()
        with pytest.raises(Draining):
            await task


async def test_an_engine_that_takes_nothing_of_a_long_body_is_given_up() -> None:
    """Silence while a body is sent counts as silence does after it."""
    async with upstream_to(takes_nothing, engine_timeout_s=0.2) as (upstream, base, _):
        async with asyncio.timeout(60):
            with pytest.raises(EngineTimeout):
                await upstream.open(base, "POST", "/", CIMultiDict(), 4 * LONG)


async def test_a_chunk_that_is_none_in_mid_answer_is_an_engine_lost() -> None:
    """Who already waits for more is told, although the connection's end came without a word."""
    more = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await more.wait()
        writer.write(b"zz\r\n")

    async with upstream_to(serve) as (upstream, base, _):
        answer = await upstream.open(base, "POST", "/", CIMultiDict(), b"{}")
        with contextlib.closing(answer):
            assert await upstream.read(answer, base) == b"ab"
            waiting = asyncio.create_task(upstream.read(answer, base))
            await asyncio.sleep(0)
            more.set()
            async with asyncio.timeout(60):
                with pytest.raises((EngineLost, EngineGarbage)):
                    await waiting
