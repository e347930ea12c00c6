"""What comes over the socket: odd, hostile or broken HTTP gets a clear answer, and the process keeps serving."""

import asyncio
import logging

import pytest
from harness import (
    CHAT,
    ask_raw,
    bare,
    chat,
    engine_of,
    error_of,
    eventually,
    idle,
    outcomes,
    post,
    proxy_before,
    raw_client,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scripted_engine import JSON, ScriptedEngine, reply

from proxy.app import Headway
from training.emulator import EmulatedEngine

TLS_HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(range(120))
GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


async def still_serves(headway: Headway) -> bool:
    """Whether a good request gets its answer."""
    return (await ask_raw(headway, post(CHAT, chat()))).status == 200


BAD_HTTP = {
    "TLS on the plain port": TLS_HELLO,
    "no HTTP at all": b"hello there\r\n\r\n",
    "only a zero byte": b"\0\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown version": b"GET /healthz HTTP/3.7\r\n\r\n",
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost\r\n\r\n",
    "a space before the colon": b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
    "a zero byte in a header": b"GET /healthz HTTP/1.1\r\nHost: x\0y\r\n\r\n",
    "a bare CR in a header": b"GET /healthz HTTP/1.1\r\nHost: x\rX-Evil: 1\r\n\r\n",
    "a header without a name": b"GET /healthz HTTP/1.1\r\n: x\r\n\r\n",
    "two lengths": post(CHAT, chat(), "Content-Length: 5"),
    "two equal lengths in one": post(CHAT, b"{}").replace(b"Length: 2", b"Length: 2, 2"),
    "a length and chunks": post(CHAT, b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    "a negative length": post(CHAT, b"").replace(b"Length: 0", b"Length: -1"),
    "a length with a sign": post(CHAT, b"{}").replace(b"Length: 2", b"Length: +2"),
    "a hexadecimal length": post(CHAT, b"{}").replace(b"Length: 2", b"Length: 0x2"),
    "a length with a space": post(CHAT, b"{}").replace(b"Length: 2", b"Length: 2 0"),
    "an endless length": post(CHAT, b"{}").replace(b"Length: 2", b"Length: " + b"9" * 40),
    "an unknown transfer coding": post(CHAT, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: gzip"),
    "chunked not last": post(CHAT, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked, gzip"),
    "chunked twice": post(CHAT, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked, chunked"),
    "hidden chunked": post(CHAT, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: xchunked"),
}


@pytest.mark.parametrize("name", BAD_HTTP)
async def test_bad_http_is_refused(headway: Headway, engine: EmulatedEngine, name: str) -> None:
    """What is not HTTP, or could be read in two ways, is a 400 in the OpenAI shape, and the connection ends."""
    async with raw_client(headway) as client:
        await client.send(BAD_HTTP[name])
        got = await client.answer()
        assert got.status == 400
        assert error_of(got.body, "bad_http")["message"]
        assert got.header("x-should-retry") == "false"
        assert await client.rest() == b""
    assert not engine.received
    assert await still_serves(headway)


def chunked(body: bytes) -> bytes:
    """A chunked chat request with this raw body."""
    return post(CHAT, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + body


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"-1\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"5;\0\r\nhello\r\n0\r\n\r\n",
    ],
)
async def test_bad_chunks_are_refused(headway: Headway, engine: EmulatedEngine, body: bytes) -> None:
    """A chunked body that cannot be read, or could be read in two ways, is a 400; nothing reaches the engine."""
    async with raw_client(headway) as client:
        await client.send(chunked(body))
        got = await client.answer()
        assert got.status == 400
        error_of(got.body, "bad_http")
        assert b"HTTP/1.1 200" not in await client.rest()
    assert not engine.received
    assert await still_serves(headway)


@pytest.mark.parametrize(
    ("headers", "what"),
    [
        (["X-Long: " + "x" * 40_000], "one too long"),
        ([f"X-{number}: 1" for number in range(200)], "too many"),
        ["X" * 40_000 + ": 1", "a name too long"],
    ],
)
async def test_header_bombs_are_refused(headway: Headway, headers: list[str], what: str) -> None:
    """Headers beyond the limits are a 431 that names the limit."""
    got = await ask_raw(headway, post(CHAT, chat(), *([headers] if isinstance(headers, str) else headers)))
    assert got.status == 431, what
    error_of(got.body, "headers_too_large")
    assert await still_serves(headway)


async def test_a_target_too_long_is_refused(headway: Headway) -> None:
    """A request line beyond the limit is refused as too large."""
    got = await ask_raw(headway, GET % (b"/" + b"x" * 40_000))
    assert got.status in (414, 431)
    error_of(got.body, "headers_too_large")


async def test_long_headers_within_the_limit_pass() -> None:
    """Headers of 16 KB cross in both directions (aiohttp's own limit is 8 KB)."""
    long = "X-Token: " + "t" * 16_000
    async with ScriptedEngine(reply(b"{}", JSON, long)) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat(), long))
        assert got.status == 200
        assert got.header("X-Token") == "t" * 16_000
        assert long.encode() in engine.calls[0].head


async def test_head_gets_no_body(headway: Headway) -> None:
    """HEAD is no method of any route; its refusal has headers alone, and the connection stays in step."""
    async with raw_client(headway) as client:
        await client.send(bare("HEAD", "/v1/models") + GET % b"/healthz")
        first = await client.reader.readuntil(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 405")
        assert (await client.answer()).status == 200


async def test_pipelined_requests_are_answered_in_order(headway: Headway) -> None:
    """Requests sent without waiting are answered one by one, in order."""
    async with raw_client(headway) as client:
        await client.send(post(CHAT, chat(max_tokens=3)) + GET % b"/nowhere" + GET % b"/healthz")
        async with asyncio.timeout(60):
            raw = b""
            while raw.count(b"HTTP/1.1 ") < 3 or not raw.endswith(b"}"):
                raw += await client.reader.read(1 << 16)
    assert [part[:3] for part in raw.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


async def test_nothing_is_smuggled_behind_a_body(headway: Headway, engine: EmulatedEngine) -> None:
    """Bytes after a body are the next request, on their own, and subject to the allow-list."""
    async with raw_client(headway) as client:
        await client.send(post(CHAT, chat()) + bare("POST", "/sleep"))
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 404
    assert len(engine.received) == 1


@pytest.mark.parametrize("bytes_", [b"", b"GET", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
async def test_a_connection_that_says_nothing_whole_is_closed(engine: EmulatedEngine, bytes_: bytes) -> None:
    """A client that opens connections and never finishes a head holds them for `keepalive_s` at most."""
    # A stall longer than that between a connection and its handler's first step would leave it to nobody (aiohttp).
    async with proxy_before(engine.url, keepalive_s=1.0) as headway, raw_client(headway) as client:
        await client.send(bytes_)
        assert await client.rest() == b""


async def test_a_half_closed_client_costs_nothing(engine: EmulatedEngine) -> None:
    """A client that closes its sending side counts as gone: its slot is freed and the proxy serves on."""
    async with engine_of([100_000]) as slow, proxy_before(slow.url) as headway:
        async with raw_client(headway) as client:
            await client.send(post(CHAT, chat(stream=True)))
            await client.reader.readuntil(b"\r\n\r\n")
            client.writer.write_eof()
            await client.rest()
        await idle(headway)
        await eventually(lambda: slow.inference.model.num_running == 0)
        assert await outcomes(headway) == {"client_gone": 1}


async def test_a_client_that_goes_away_is_no_error_in_the_log(
    engine: EmulatedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Disconnects are daily business: they fill no log with tracebacks."""
    async with engine_of([100_000]) as slow, proxy_before(slow.url) as headway:
        for _ in range(10):
            async with raw_client(headway) as client:
                await client.send(post(CHAT, chat(stream=True)))
                await client.reader.readuntil(b"\r\n\r\n")
                client.reset()
        await idle(headway)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


marks = st.sampled_from([b"\r\n", b"\r\n\r\n", b" HTTP/1.1", b"POST ", b"GET ", b"\n", b":"])
requests = st.sampled_from(
    [post(CHAT, chat()), GET % b"/v1/models", chunked(b"2\r\n{}\r\n0\r\n\r\n"), TLS_HELLO]
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A request with something cut out and something put in, a few times over."""
    raw = draw(requests)
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(raw)))
        end = min(len(raw), begin + draw(st.integers(0, 20)))
        raw = raw[:begin] + draw(st.binary(max_size=40) | marks) + raw[end:]
    return raw


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=damaged())
@example(raw=GET % b"/\xed\xb3\xbf")
@example(raw=GET % b"/\xff")
async def test_damaged_bytes_break_nothing(
    headway: Headway, caplog: pytest.LogCaptureFixture, raw: bytes
) -> None:
    """Whatever bytes come: an answer in good HTTP or a closed connection, never a 500, nothing in the log."""
    async with raw_client(headway) as client:
        await client.send(raw)
        client.writer.write_eof()
        got = await client.rest()
    for answer in got.split(b"HTTP/1.1 ")[1:]:
        assert 200 <= int(answer[:3]) < 500
    await idle(headway)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_two_thousand_clients_in_a_second(headway: Headway) -> None:
    """A burst of 2,000 connections is taken in whole: nobody is refused, everybody is answered."""

    async def one() -> int:
        async with raw_client(headway) as client:
            await client.send(GET % b"/healthz")
            return (await client.answer()).status

    assert set(await asyncio.gather(*(one() for _ in range(2000)))) == {200}


async def test_an_idle_client_is_kept_for_its_time(engine: EmulatedEngine) -> None:
    """A connection is kept open between requests, and closed by the proxy when `keepalive_s` is over."""
    async with proxy_before(engine.url, keepalive_s=2.0) as headway, raw_client(headway) as client:
        for _ in range(3):
            await client.send(GET % b"/healthz")
            assert (await client.answer()).status == 200
        assert await client.rest() == b""
