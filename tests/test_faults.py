"""An engine that breaks, lies or falls silent: the client gets one clear end, and nobody takes half for whole."""

import logging

import pytest
from harness import CHAT, ask_raw, chat, error_of, idle, outcomes, post, proxy_before
from scripted_engine import JSON, Call, ScriptedEngine, chunk, head, reply, stream, stream_head

from proxy.sse import MOST_HELD_BYTES

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
ANSWER = b'{"choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":1}}'
STREAM = chat(stream=True)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (reply(b"<html>", "Content-Type: text/html"), "engine_garbage"),
        (reply(ANSWER[:-3], JSON), "engine_garbage"),
        (reply(b"", JSON), "engine_garbage"),
        (reply(b"[" * 100_000, JSON), "engine_garbage"),
        (b"\x16\x03\x01 nonsense\r\n\r\n", "engine_garbage"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "engine_garbage"),
        (head("Content-Length: -5"), "engine_garbage"),
        (head("Content-Length: x"), "engine_garbage"),
        (head("X-Long: " + "x" * 100_000), "engine_garbage"),
        (head(JSON, "Transfer-Encoding: chunked") + b"zz\r\n", "engine_garbage"),
        (head(status="101 Switching Protocols"), "engine_garbage"),
        (b"", "engine_lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: appl", "engine_lost"),
        (head(JSON, "Content-Length: 1000") + ANSWER, "engine_lost"),
        (stream_head(), "engine_lost"),
        (stream(), "engine_garbage"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_a_broken_answer_is_a_clear_error(answer: bytes, code: str, streams: bool) -> None:
    """Where nothing of an answer has gone out, the client gets a 502 that says what the engine did."""
    async with ScriptedEngine(answer) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat(stream=streams)))
        assert got.status == 502
        error_of(got.body, code)
        assert sum((await outcomes(headway)).values()) == 1
        assert headway.status().running == 0


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (b'data: {"error":{"message":"The queue is full","code":503}}', 503),
        (b'data: {"error":{"message":"The queue is full","code":"busy"}}', 503),
        (b'event: error\r\ndata: {"error":{"message":"The queue is full","code":400}}\r', 400),
        (b'data: {"error":{"message":"The queue is full","code":429}}', 429),
        (b'data: {"error":"The queue is full"}', 503),
    ],
)
@pytest.mark.parametrize("rest", [b"", b"\n\n" + DONE])
async def test_an_error_in_place_of_the_first_event_becomes_a_status(
    first: bytes, status: int, rest: bytes
) -> None:
    """An engine that refuses inside a 200 stream does not fool the client: it gets a real status."""
    async with ScriptedEngine(stream(first + rest)) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, STREAM))
        assert got.status == status
        assert "queue is full" in error_of(got.body, "engine_refused")["message"]
        assert await outcomes(headway) == {"engine_error": 1}


async def test_an_error_event_later_in_the_stream_is_passed_on_and_counted() -> None:
    """The engine's own error event reaches the client as sent; the request counts as an engine's error."""
    failed = b'data: {"error":{"message":"out of memory","code":500}}\n\n'
    async with ScriptedEngine(stream(TOKEN, failed, DONE)) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, STREAM))
        assert got.body == TOKEN + failed + DONE
        assert await outcomes(headway) == {"engine_error": 1}


@pytest.mark.parametrize("half", [b"", TOKEN[:20], b"data: " + b"z" * (2 * MOST_HELD_BYTES)])
@pytest.mark.parametrize("resets", [False, True])
async def test_a_stream_that_breaks_ends_in_an_error_event(
    caplog: pytest.LogCaptureFixture, half: bytes, resets: bool
) -> None:
    """Engine lost in mid-stream: an error event on a line of its own, and no last chunk to make it look whole."""

    async def breaks(call: Call) -> None:
        await call.send(stream_head() + chunk(TOKEN) + (chunk(half) if half else b""))
        if resets:
            call.reset()

    async with ScriptedEngine(breaks) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, STREAM))
        assert got.status == 200
        assert not got.complete
        *events, last, rest = got.body.split(b"\n\n")
        assert rest == b""
        assert TOKEN.strip() == events[0]
        assert error_of(last.removeprefix(b"data: "), "engine_lost")
        assert await outcomes(headway) == {"engine_lost": 1}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_an_engine_that_falls_silent_in_mid_stream_is_given_up() -> None:
    """After `engine_timeout_s` of silence the client gets an error event and the connection ends."""

    async def silent(call: Call) -> None:
        await call.send(stream_head() + chunk(TOKEN))
        await call.closed()

    async with ScriptedEngine(silent) as engine, proxy_before(engine.url, engine_timeout_s=1.5) as headway:
        got = await ask_raw(headway, post(CHAT, STREAM))
        assert not got.complete
        error_of(got.body.split(b"data: ")[-1].strip(), "engine_timeout")
        await idle(headway)


@pytest.mark.parametrize("streams", [False, True])
async def test_an_engine_that_never_answers_is_a_504(streams: bool) -> None:
    """After `engine_timeout_s` without a first byte the client gets a 504, and the engine is let go."""
    async with (
        ScriptedEngine(lambda call: call.closed()) as engine,
        proxy_before(engine.url, engine_timeout_s=0.2) as headway,
    ):
        got = await ask_raw(headway, post(CHAT, chat(stream=streams)))
        assert got.status == 504
        error_of(got.body, "engine_timeout")
        assert await outcomes(headway) == {"engine_lost": 1}


async def test_a_long_unary_answer_that_breaks_is_cut() -> None:
    """Once the head is out, an answer that breaks ends without its last chunk."""

    async def breaks(call: Call) -> None:
        await call.send(head(JSON, f"Content-Length: {8 << 20}") + b"x" * (6 << 20))

    async with ScriptedEngine(breaks) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat()))
        assert got.status == 200
        assert not got.complete
        assert await outcomes(headway) == {"engine_lost": 1}
