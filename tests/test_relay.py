"""What a client receives is what the engine sent in that very exchange, and nothing that it did not send."""

import asyncio
import json
from typing import Any

import pytest
from harness import CHAT, COMPLETIONS, ask_raw, chat, outcomes, post, proxy_before, raw_client, session
from recording_relay import RecordingRelay
from scripted_engine import JSON, Call, ScriptedEngine, head, reply, stream, stream_head
from wire import Message

from proxy.sse import MOST_HELD_BYTES
from training.emulator import EmulatedEngine

OF_THE_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "trailer", "upgrade", "te"}
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"
ANSWER = b'{"choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":1}}'
STREAM = chat(stream=True)


def end_to_end(message: Message) -> list[tuple[str, str]]:
    """The headers that must cross, in their order; names have no case."""
    lower = [(name.lower(), value) for name, value in message.headers]
    return [(n, v) for n, v in lower if n not in OF_THE_HOP and not n.startswith("x-headway")]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("asks_usage", [False, True])
async def test_the_client_receives_what_the_engine_sent(
    engine: EmulatedEngine, path: str, streams: bool, n: int, asks_usage: bool
) -> None:
    """Status, end-to-end headers and body cross unchanged; a stream loses the usage event that we asked for."""
    fields: dict[str, Any] = {"n": n, "max_tokens": 4}
    if streams:
        fields |= {"stream": True}
    if streams and asks_usage:
        fields |= {"stream_options": {"include_usage": True}}
    body = chat(**fields) if path == CHAT else json.dumps({"prompt": "Hello", **fields}).encode()
    async with RecordingRelay(engine.config.host, engine.port) as relay, proxy_before(relay.url) as headway:
        got = await ask_raw(headway, post(path, body))
        sent = relay.exchanges_of(path)[0].answer
    assert sent is not None
    assert got.start == sent.start == "HTTP/1.1 200 OK"
    assert end_to_end(got) == end_to_end(sent)
    if streams and not asks_usage:
        events = sent.body.split(b"\n\n")
        assert sum(b'"usage":{' in event for event in events) == 1
        assert got.body.split(b"\n\n") == [event for event in events if b'"usage":{' not in event]
    else:
        assert got.body == sent.body
        assert b'"usage":{' in got.body


@pytest.mark.parametrize(
    "events",
    [
        (TOKEN, TOKEN, DONE),
        (b": keep-alive\n\n", TOKEN, b": keep-alive\n\n", DONE),
        (TOKEN.replace(b"\n\n", b"\r\n\r\n"), DONE.replace(b"\n\n", b"\r\n\r\n")),
        (b"event: message\nid: 4\nretry: 10\n" + TOKEN, DONE),
        (b"\n\n\n", TOKEN, b"\n", DONE),
        (TOKEN + TOKEN[:10], TOKEN[10:] + DONE[:3], DONE[3:]),
        (TOKEN, DONE.rstrip()),
        (TOKEN.rstrip(),),
        (b"data: \xff\xfe \x00\n\n", TOKEN),
        (b"data: not json\n\n", DONE),
        (b"data: " + b"x" * (4 * MOST_HELD_BYTES) + b"\n\n", DONE),
        (TOKEN, b"data: " + b"y" * (4 * MOST_HELD_BYTES), b"\n", b"\n", DONE),
    ],
)
async def test_any_stream_passes_unchanged(events: tuple[bytes, ...]) -> None:
    """Comments, ids, CRLF, odd chunking, no last newline, no JSON, giant events: the bytes are the engine's."""
    async with ScriptedEngine(stream(*events)) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, STREAM))
        assert got.status == 200
        assert got.complete
        assert got.body == b"".join(events)
        assert await outcomes(headway) == {"completed": 1}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "503 Busy"])
async def test_an_engines_refusal_passes_unchanged(streams: bool, status: str) -> None:
    """An engine's own error, such as 404 for an unknown model, keeps its status, reason and body."""
    body = b'{"error":{"message":"no","type":"x","param":null,"code":4}}'
    async with (
        ScriptedEngine(reply(body, JSON, status=status)) as engine,
        proxy_before(engine.url) as headway,
    ):
        got = await ask_raw(headway, post(CHAT, chat(stream=streams)))
    assert got.start == f"HTTP/1.1 {status}"
    assert got.body == body


async def test_headers_of_the_hop_stay_on_it() -> None:
    """Connection headers, and what Connection names, do not cross; repeated headers stay repeated."""
    sent = reply(
        ANSWER, JSON, "X-Once: 1", "Set-Cookie: a=1", "Set-Cookie: b=2", "Connection: X-Hop", "X-Hop: 1"
    )
    async with ScriptedEngine(sent) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat()))
    assert [value for name, value in got.headers if name == "Set-Cookie"] == ["a=1", "b=2"]
    assert got.header("X-Once") == "1"
    assert got.header("X-Hop") is None


async def test_every_answer_says_what_was_done(headway: Any) -> None:
    """Each scheduled answer carries its request id, prediction, wait, policy and artifact."""
    got = await ask_raw(headway, post(CHAT, chat(max_tokens=4)))
    assert got.header_names() >= {f"x-headway-{name}" for name in ("request-id", "queue-ms", "artifact")}
    assert got.header("x-headway-predicted-tokens") == "4"
    assert got.header("x-headway-policy") == "quantile"


async def test_headers_that_are_not_utf8_cross() -> None:
    """A header with bytes of an older encoding breaks nothing in either direction and stays readable."""
    odd = "X-Name: caf\udce9"
    async with ScriptedEngine(reply(ANSWER, JSON, odd)) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat(), odd))
        assert got.status == 200
        assert "X-Name: café\r\n".encode() in got.raw
        assert "X-Name: café\r\n".encode() in engine.calls[0].head


async def test_a_long_unary_answer_flows() -> None:
    """An answer longer than what is read whole arrives byte for byte."""
    body = b'{"choices":[],"x":"' + b"y" * (6 << 20) + b'"}'
    async with ScriptedEngine(reply(body, JSON)) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat()))
        assert got.complete
        assert got.body == body
        assert await outcomes(headway) == {"completed": 1}


async def test_an_answer_longer_than_announced_is_cut_to_its_length() -> None:
    """What an engine sends beyond its Content-Length belongs to no answer."""
    lie = head(JSON, f"Content-Length: {len(ANSWER)}") + ANSWER + b"HTTP/1.1 200 OK\r\n\r\nsmuggled"
    async with ScriptedEngine(lie) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat()))
        assert got.body == ANSWER
        again = await ask_raw(headway, post(CHAT, chat()))
        assert again.body == ANSWER


@pytest.mark.parametrize("usage", ["-5", "1e99", '"x"', "[]", "null", "12345678901234567890123", "1.5"])
@pytest.mark.parametrize("streams", [False, True])
async def test_an_engine_that_lies_about_usage_costs_nothing(
    tmp_path: Any, usage: str, streams: bool
) -> None:
    """Nonsense in `usage` is left unknown; the client gets the answer all the same."""
    counts = b'"usage":{"completion_tokens":%b}' % usage.encode()
    body = b'{"choices":[{"finish_reason":"stop"}],%b}' % counts
    event = b"data: " + body + b"\n\n"
    answer = stream(event, DONE) if streams else reply(body, JSON)
    async with ScriptedEngine(answer) as engine, proxy_before(engine.url, state=tmp_path) as headway:
        for _ in range(2):
            got = await ask_raw(headway, post(CHAT, chat(stream=streams)))
            assert got.body == (event + DONE if streams else body)
        assert await outcomes(headway) == {"completed": 2}


async def test_http_1_0_clients_get_the_whole_stream() -> None:
    """A client without chunking gets the stream bare, ended by the end of the connection."""
    async with ScriptedEngine(stream(TOKEN, USAGE, DONE)) as engine, proxy_before(engine.url) as headway:
        data = post(CHAT, STREAM).replace(b"HTTP/1.1", b"HTTP/1.0")
        async with raw_client(headway) as client:
            await client.send(data)
            got = await client.rest()
    answer_head, _, body = got.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in answer_head.lower()
    assert body == TOKEN + DONE


async def test_a_stream_flows_event_by_event() -> None:
    """Each event reaches the client before the engine sends the next one."""
    taken: list[bytes] = []
    proceed = asyncio.Semaphore(0)

    async def one_by_one(call: Call) -> None:
        await call.send(stream_head())
        for number in range(5):
            await call.chunk(b"data: {%d}\n\n" % number)
            await proceed.acquire()
        await call.chunk(b"")

    async with (
        ScriptedEngine(one_by_one) as engine,
        proxy_before(engine.url) as headway,
        session() as client,
        client.post(headway.url + CHAT, data=STREAM) as answer,
    ):
        async for part in answer.content.iter_any():
            taken.append(part)
            proceed.release()
    assert taken == [b"data: {%d}\n\n" % number for number in range(5)]
