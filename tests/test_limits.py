"""The defaults of aiohttp that break a proxy, each set on purpose: pools, time-outs, sizes, keep-alive."""

import asyncio
import base64

import msgspec
import pytest
from harness import (
    CHAT,
    ask_raw,
    chat,
    engine_of,
    eventually,
    idle,
    outcomes,
    post,
    proxy_before,
    raw_client,
    session,
)
from recording_relay import RecordingRelay
from scripted_engine import JSON, Call, ScriptedEngine, chunk, reply, stream, stream_head

from training.emulator import EmulatedEngine

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'


async def test_four_hundred_streams_at_once() -> None:
    """No pool on the way holds a stream back: all 400 are at the engine together, each comes whole."""
    async with engine_of([40]) as engine, proxy_before(engine.url, mode="engine") as headway:
        engine.inference.loop.set_slowness(1000)
        streams = [asyncio.create_task(ask_raw(headway, post(CHAT, chat(stream=True)))) for _ in range(400)]
        async with asyncio.timeout(60):
            while len(engine.received) < 400:
                await asyncio.sleep(0.01)
        assert headway.status().running == 400
        engine.inference.loop.set_slowness(1)
        for answer in await asyncio.gather(*streams):
            assert answer.status == 200
            assert answer.complete
            assert answer.body.count(b"\n\n") == 42
            assert answer.body.endswith(b"data: [DONE]\n\n")
        await idle(headway)
        assert await outcomes(headway) == {"completed": 400}


async def test_four_hundred_clients_on_kept_connections(engine: EmulatedEngine) -> None:
    """Connections that are used again and again stay in step."""
    is_json = {"Content-Type": "application/json"}
    async with proxy_before(engine.url, window=64) as headway, session() as client:

        async def several() -> None:
            for _ in range(3):
                async with client.post(headway.url + CHAT, data=chat(), headers=is_json) as answer:
                    assert answer.status == 200
                    assert (await answer.json())["choices"]

        await asyncio.gather(*(several() for _ in range(400)))
        assert await outcomes(headway) == {"completed": 1200}


async def test_a_long_answer_outlives_every_idle_limit() -> None:
    """An answer that takes longer than connect, body and keep-alive limits together is not cut."""
    async with (
        engine_of([20], base_s=0.05) as engine,
        proxy_before(
            engine.url, connect_timeout_s=0.2, body_timeout_s=0.2, keepalive_s=0.2, engine_keepalive_s=0.2
        ) as headway,
    ):
        for streams in (True, False):
            got = await ask_raw(headway, post(CHAT, chat(stream=streams)))
            assert got.status == 200
            assert got.complete


async def test_silence_between_events_counts_not_the_whole_answer() -> None:
    """`engine_timeout_s` bounds the engine's silence: an answer of many short pauses may take far longer."""

    async def slowly(call: Call) -> None:
        await call.send(stream_head())
        for _ in range(12):
            await asyncio.sleep(0.25)
            await call.send(chunk(EVENT))
        await call.send(chunk(b""))

    async with ScriptedEngine(slowly) as engine, proxy_before(engine.url, engine_timeout_s=2.0) as headway:
        got = await ask_raw(headway, post(CHAT, chat(stream=True)))
        assert got.complete
        assert got.body == EVENT * 12


async def test_a_twenty_megabyte_image_passes() -> None:
    """A picture in a chat (aiohttp's own limit is 1 MiB) reaches the engine byte for byte."""
    image = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * (15 << 12)).decode()
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": image}}]
    body = msgspec.json.encode({"messages": [{"role": "user", "content": content}]})
    assert len(body) > 20 << 20
    async with ScriptedEngine(reply(b"{}", JSON)) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, body))
        assert got.status == 200
        assert engine.calls[0].body == body


async def test_connections_to_the_engine_are_used_again(engine: EmulatedEngine) -> None:
    """Requests in a row share connections, so that an engine is not flooded with handshakes."""
    async with RecordingRelay(engine.config.host, engine.port) as relay, proxy_before(relay.url) as headway:
        for _ in range(10):
            assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
        opened = len(relay.connections)
        for _ in range(20):
            assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
        assert len(relay.connections) <= opened + 1


async def test_compressed_answers_are_not_touched() -> None:
    """An engine that compresses although nobody asked is relayed as it is, on routes that are not read."""
    squeezed = b"\x1f\x8b\x08\x00 not really gzip"
    answer = reply(squeezed, JSON, "Content-Encoding: gzip")
    async with ScriptedEngine(answer) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post("/v1/embeddings", b"{}"))
        assert got.body == squeezed
        assert got.header("Content-Encoding") == "gzip"


async def test_redirects_are_not_followed() -> None:
    """A redirect is the client's to follow; the proxy never goes elsewhere with its headers."""
    answer = reply(b"", "Location: http://127.0.0.1:9/elsewhere", status="307 Temporary Redirect")
    async with ScriptedEngine(answer) as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat()))
        assert got.status == 307
        assert got.header("Location") == "http://127.0.0.1:9/elsewhere"


async def test_an_engine_that_answers_before_it_has_read_all() -> None:
    """An engine that refuses a long body early is relayed, not taken for dead."""

    class Early(ScriptedEngine):
        async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            got = await reader.readuntil(b"\r\n\r\n")
            if got.startswith(b"GET "):
                writer.write(reply(b""))
                return True
            writer.write(reply(b'{"error":"too long"}', JSON, status="413 Too Large"))
            await writer.drain()
            await Call(got, b"", reader, writer).closed()
            return False

    async with Early(b"") as engine, proxy_before(engine.url) as headway:
        got = await ask_raw(headway, post(CHAT, chat("x" * (4 << 20))))
        assert got.status == 413
        assert got.body == b'{"error":"too long"}'


async def test_an_engine_that_takes_no_connection_is_given_up_in_time() -> None:
    """A connect that nobody answers ends after `connect_timeout_s`, not after the system's minutes."""
    async with proxy_before("http://192.0.2.1:9", connect_timeout_s=0.1, engine_wait_s=0.0) as headway:
        got = await ask_raw(headway, post(CHAT, chat()))
        assert got.status == 503


async def test_the_openai_client_works_unchanged(engine: EmulatedEngine) -> None:
    """The SDK, streaming and not, needs nothing but another base URL."""
    import openai

    async with (
        proxy_before(engine.url) as headway,
        openai.AsyncOpenAI(base_url=f"{headway.url}/v1", api_key="x", max_retries=0) as sdk,
    ):
        messages = [{"role": "user", "content": "hi"}]
        whole = await sdk.chat.completions.create(model="emulated", messages=messages)  # type: ignore[arg-type]
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 5
        stream = await sdk.chat.completions.create(model="emulated", messages=messages, stream=True)  # type: ignore[call-overload]
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert all(chunk.usage is None for chunk in chunks)
        assert [model.id async for model in await sdk.models.list()] == ["emulated"]


async def test_the_openai_client_does_not_repeat_refusals() -> None:
    """A refusal under overload is not sent again by the SDK: `x-should-retry` says so."""
    import openai

    settings = {"mode": "hold", "window": 1, "max_waiting": 1}
    async with engine_of([100_000]) as engine, proxy_before(engine.url, **settings) as headway:
        held = [asyncio.create_task(ask_raw(headway, post(CHAT, chat(stream=True)))) for _ in range(2)]
        async with asyncio.timeout(60):
            while headway.status().waiting < 1:
                await asyncio.sleep(0.005)
        async with openai.AsyncOpenAI(base_url=f"{headway.url}/v1", api_key="x", max_retries=3) as sdk:
            try:
                await sdk.completions.create(model="emulated", prompt="hi")
            except openai.RateLimitError as error:
                assert error.code == "queue_full"
            else:
                raise AssertionError("the queue was not full")
        assert await outcomes(headway) == {"refused_full": 1}
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await idle(headway)


async def test_a_client_that_takes_nothing_of_its_answer_loses_its_place() -> None:
    """Whoever stops reading in mid-answer is cut off after `client_timeout_s`, and the next one is served."""

    async def endless(call: Call) -> None:
        if b"endless" not in call.body:
            await call.send(stream(b"data: [DONE]\n\n"))
            return
        await call.send(stream_head())
        while True:
            await call.chunk(b"data: " + b"x" * 60_000 + b"\n\n")

    limits = {"client_timeout_s": 0.2, "mode": "hold", "window": 1}
    async with (
        ScriptedEngine(endless) as engine,
        proxy_before(engine.url, **limits) as headway,
        raw_client(headway) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(post(CHAT, chat("endless", stream=True)))
        await eventually(lambda: headway.status().running == 1)
        assert (await ask_raw(headway, post(CHAT, chat(stream=True)))).status == 200
        assert await outcomes(headway) == {"client_gone": 1, "completed": 1}


@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
async def test_a_client_that_takes_nothing_of_a_long_answer_is_cut_off(path: str) -> None:
    """Unary answers and routes that are passed through have the same limit as streams: no handler stays behind."""

    async def long(call: Call) -> None:
        await call.send(reply(b'{"x":"%b"}' % (b"x" * (40 << 20)), JSON))

    async with (
        ScriptedEngine(long) as engine,
        proxy_before(engine.url, client_timeout_s=0.2, drain_s=60) as headway,
        raw_client(headway) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(post(path, chat()))
        await eventually(lambda: engine.calls)
        assert await headway.drain()
