"""With `hold_keepalive_s` a client that waits for a stream hears of it, and loses nothing by that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from harness import CHAT, Raw, chat, error_of, eventually, idle, outcomes, post, proxy_before, raw_client
from scripted_engine import JSON, Call, ScriptedEngine, reply, stream
from wire import Message, read_messages

from proxy.app import Headway

EVERY_S = 0.1
COMMENT = b": waiting\n\n"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = post(CHAT, chat(stream=True))
ANSWERED = stream(TOKEN, DONE)


class Gate:
    """An engine's script that gives the answers in turn, each when `let` is called."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self._places = asyncio.Semaphore(0)

    def let(self) -> None:
        """One more answer may go."""
        self._places.release()

    async def __call__(self, call: Call) -> None:
        await self._places.acquire()
        await call.send(self._answers.pop(0))


@asynccontextmanager
async def held_behind(gate: Gate, **settings: float) -> AsyncIterator[tuple[Headway, ScriptedEngine]]:
    """A proxy that sends one request at a time, to an engine that answers by the gate."""
    async with (
        ScriptedEngine(gate) as engine,
        proxy_before(engine.url, window=1, hold_keepalive_s=EVERY_S, **settings) as headway,
    ):
        yield headway, engine


async def head_and_comments(client: Raw, comments: int = 2) -> bytes:
    """What has come when so many comments have."""
    raw = b""
    async with asyncio.timeout(60):
        while raw.count(COMMENT) < comments:
            more = await client.reader.read(1 << 16)
            assert more, f"the connection ended after {raw!r}"
            raw += more
    return raw


async def whole(client: Raw, begun: bytes = b"") -> Message:
    """The answer of which `begun` has been read: to its last chunk, or to the connection's end without one."""
    async with asyncio.timeout(60):
        while not begun.endswith(b"0\r\n\r\n") and (more := await client.reader.read(1 << 16)):
            begun += more
    (message,) = read_messages(begun)
    return message


@asynccontextmanager
async def second_behind_first(gate: Gate) -> AsyncIterator[tuple[Headway, ScriptedEngine, Raw, Raw]]:
    """Two clients; what the first has sent is at the engine, whatever the second sends has to wait."""
    async with (
        held_behind(gate) as (headway, engine),
        raw_client(headway) as first,
        raw_client(headway) as second,
    ):
        await first.send(STREAM)
        await eventually(lambda: len(engine.calls) == 1)
        yield headway, engine, first, second


async def test_a_waiting_stream_is_kept_busy_and_then_answered() -> None:
    """In the proxy's queue and in the engine's it gets comments; then every byte of the answer, and an end."""
    gate = Gate(ANSWERED, ANSWERED)
    async with second_behind_first(gate) as (headway, engine, first, second):
        await second.send(STREAM)
        begun = await head_and_comments(second)
        assert len(engine.calls) == 1
        assert begun.startswith(b"HTTP/1.1 200 OK\r\n")
        gate.let()
        assert (await first.answer()).body.replace(COMMENT, b"") == TOKEN + DONE
        await eventually(lambda: len(engine.calls) == 2)
        begun += await head_and_comments(second)
        gate.let()
        got = await whole(second, begun)
        await idle(headway)
        assert await outcomes(headway) == {"completed": 2}
    assert got.complete
    assert got.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert got.header("x-headway-predicted-tokens") == "256"
    assert got.header("x-headway-queue-ms") is None
    comments, answer = got.body.rsplit(COMMENT, 1)
    assert answer == TOKEN + DONE
    assert set(comments.split(b"\n\n")) == {COMMENT.strip(), b""}


async def test_the_connection_serves_the_next_request() -> None:
    """An answer that began with comments ends like any other: the connection stays."""
    gate = Gate(ANSWERED, ANSWERED)
    async with held_behind(gate) as (headway, _), raw_client(headway) as client:
        for _ in range(2):
            await client.send(STREAM)
            begun = await head_and_comments(client, 1)
            gate.let()
            assert (await whole(client, begun)).body.endswith(COMMENT + TOKEN + DONE)


async def test_an_early_answer_is_the_engine_s_alone() -> None:
    """Whose answer begins in time gets no comment, and the engine's own headers."""
    gate = Gate(stream(TOKEN, DONE).replace(b"200 OK\r\n", b"200 OK\r\nX-Engine: it\r\n"))
    gate.let()
    async with (
        ScriptedEngine(gate) as engine,
        proxy_before(engine.url, hold_keepalive_s=600) as headway,
        raw_client(headway) as client,
    ):
        await client.send(STREAM)
        got = await client.answer()
    assert (got.header("X-Engine"), got.body) == ("it", TOKEN + DONE)


async def test_who_asks_for_no_stream_gets_none() -> None:
    """A whole answer stays one, however long it takes."""
    said = b'{"choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":1}}'
    gate = Gate(ANSWERED, reply(said, JSON))
    async with second_behind_first(gate) as (_, _, first, second):
        await second.send(post(CHAT, chat()))
        await head_and_comments(first, 3)
        gate.let()
        gate.let()
        got = await second.answer()
    assert (got.status, got.body) == (200, said)


@pytest.mark.parametrize(
    "refusal",
    [
        reply(b'{"error":{"message":"no such model","code":404}}', JSON, status="404 Not Found"),
        stream(b'data: {"error":{"message":"no such model","code":404}}\n\n', DONE),
    ],
    ids=["status", "event"],
)
async def test_an_engine_s_refusal_is_the_last_event(refusal: bytes) -> None:
    """Where 200 has gone out, the engine's own words follow as an error event, and the stream has no good end."""
    gate = Gate(refusal)
    async with held_behind(gate) as (headway, _), raw_client(headway) as client:
        await client.send(STREAM)
        begun = await head_and_comments(client)
        gate.let()
        got = await whole(client, begun)
        await idle(headway)
        assert await outcomes(headway) == {"engine_error": 1}
    assert got.status == 200
    assert not got.complete
    event = got.body.rpartition(COMMENT)[2]
    assert error_of(event.removeprefix(b"data: ").strip(), "engine_refused")["message"] == "no such model"


async def test_an_answer_that_is_no_stream_cannot_follow_comments() -> None:
    """JSON in place of the stream is told as an error, not written into the stream."""
    gate = Gate(reply(b'{"choices":[]}', JSON))
    async with held_behind(gate) as (headway, _), raw_client(headway) as client:
        await client.send(STREAM)
        begun = await head_and_comments(client)
        gate.let()
        got = await whole(client, begun)
    assert b"engine_refused" in got.body.rpartition(COMMENT)[2]


async def test_a_missed_deadline_is_the_last_event() -> None:
    """Who cannot begin in time is told so in the stream that waits, and counted once."""
    gate = Gate(ANSWERED)
    async with second_behind_first(gate) as (headway, engine, _, second):
        await second.send(post(CHAT, chat(stream=True), "x-headway-ttl: 3"))
        got = await whole(second)
        assert error_of(got.body.rpartition(COMMENT)[2].removeprefix(b"data: ").strip(), "ttl_expired")
        assert got.body.startswith(COMMENT)
        gate.let()
        await idle(headway)
        assert await outcomes(headway) == {"completed": 1, "expired": 1}
    assert len(engine.calls) == 1


async def test_a_full_engine_is_tried_again_while_comments_go_on() -> None:
    """A refusal for the engine's full queue is not the client's: it waits on, and is answered."""
    full = reply(
        b'{"error":{"message":"Request queue is full.","code":503}}', JSON, status="503 Service Unavailable"
    )
    gate = Gate(full, ANSWERED)
    async with (
        ScriptedEngine(gate) as engine,
        proxy_before(engine.url, engine_kind="sglang", hold_keepalive_s=EVERY_S) as headway,
        raw_client(headway) as client,
    ):
        await client.send(STREAM)
        begun = await head_and_comments(client, 1)
        gate.let()
        await eventually(lambda: len(engine.calls) == 2)
        begun += await head_and_comments(client, 1)
        gate.let()
        assert (await whole(client, begun)).body.endswith(COMMENT + TOKEN + DONE)
        assert await outcomes(headway) == {"completed": 1}


async def test_who_leaves_while_held_leaves_the_queue() -> None:
    """A client that goes away after comments is never sent to the engine."""
    gate = Gate(ANSWERED)
    async with held_behind(gate) as (headway, engine), raw_client(headway) as first:
        await first.send(STREAM)
        await eventually(lambda: len(engine.calls) == 1)
        async with raw_client(headway) as second:
            await second.send(STREAM)
            await head_and_comments(second)
            second.reset()
        await eventually(lambda: headway.status().waiting == 0)
        gate.let()
        await idle(headway)
        assert await outcomes(headway) == {"completed": 1, "client_gone": 1}
        assert len(engine.calls) == 1
