"""Each fault of the emulated engine looks on the wire as it should, and heals."""

import asyncio
from typing import Any

import aiohttp
import pytest
from emulation import CHAT, chat, emulated, events, exactly, metrics, post, quick_profile, until

from training.emulator import EmulatedEngine, Faults, Garbage, UsageLie


async def raw(engine: EmulatedEngine, body: bytes) -> bytes:
    """All bytes that the engine sends on one connection until it closes its half."""
    reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    writer.write(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


STREAM = b'{"messages":[],"stream":true,"max_tokens":20,"ignore_eos":true}'
UNARY = b'{"messages":[],"max_tokens":20,"ignore_eos":true}'


async def test_refuse_is_a_503_and_heals() -> None:
    """Unary and stream alike; `Faults()` ends it."""
    async with emulated() as engine:
        engine.set_faults(Faults(refuse=True))
        assert (await post(engine, CHAT, chat()))[0] == 503
        assert (await post(engine, CHAT, chat(stream=True)))[0] == 503
        engine.set_faults(Faults())
        assert (await post(engine, CHAT, chat()))[0] == 200


async def test_faults_can_hit_a_number_of_requests_only() -> None:
    """`times` counts down, then the engine is well again."""
    async with emulated() as engine:
        engine.set_faults(Faults(refuse=True, times=2))
        assert [(await post(engine, CHAT, chat()))[0] for _ in range(3)] == [503, 503, 200]


async def test_hang_takes_the_request_and_stays_silent() -> None:
    """No byte comes back; other routes still answer."""
    async with emulated() as engine, aiohttp.ClientSession() as session:
        engine.set_faults(Faults(hang=True))
        task = asyncio.create_task(raw(engine, UNARY))
        await asyncio.sleep(0.05)
        async with session.get(engine.url + "/health") as response:
            assert response.status == 200
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_slowness_stretches_the_engines_time() -> None:
    """What the client waits for ten times longer the engine's own clock does not see."""
    async with emulated() as engine:
        engine.set_faults(Faults(slowness=10))
        started_s = asyncio.get_running_loop().time()
        _, body = await post(engine, CHAT, exactly(20))
        took_s = asyncio.get_running_loop().time() - started_s
        assert took_s > 10 * 20 * 0.001
        assert body["metrics"]["generation_time_ms"] < took_s * 1e3 / 2


async def test_garbage_bytes_are_not_http() -> None:
    """The connection carries something that no HTTP client can read, then closes."""
    async with emulated() as engine:
        engine.set_faults(Faults(garbage=Garbage.BYTES))
        assert not (await raw(engine, UNARY)).startswith(b"HTTP/")
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.post(engine.url + CHAT, json=chat())


async def test_garbage_json_is_a_200_that_cannot_be_parsed() -> None:
    """Status and length are right, the JSON is cut."""
    async with emulated() as engine:
        engine.set_faults(Faults(garbage=Garbage.JSON))
        with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
            await post(engine, CHAT, chat())


@pytest.mark.parametrize(("garbage", "relation"), [(Garbage.SHORT_BODY, -1), (Garbage.LONG_BODY, 1)])
async def test_content_length_can_lie(garbage: Garbage, relation: int) -> None:
    """The body is shorter, or longer, than its content-length."""
    async with emulated() as engine:
        engine.set_faults(Faults(garbage=garbage))
        head, body = (await raw(engine, UNARY)).split(b"\r\n\r\n", 1)
        promised = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert (len(body) - promised) * relation > 0


async def test_error_first_is_a_200_with_nothing_but_an_error() -> None:
    """The status line is good, the first event is the error; a unary request gets a 500."""
    async with emulated() as engine:
        engine.set_faults(Faults(error_first=True))
        (_, error), (_, done) = await events(engine, CHAT, chat())
        assert (error["error"]["code"], done) == (500, "[DONE]")
        assert (await post(engine, CHAT, chat()))[0] == 500
        await until(lambda: engine.inference.model.num_running == 0)


async def test_error_in_mid_stream_follows_so_many_tokens() -> None:
    """Tokens, error event, `[DONE]`; the engine's work is dropped."""
    async with emulated() as engine:
        engine.set_faults(Faults(error_after=3))
        *tokens, (_, error), (_, done) = await events(engine, CHAT, exactly(2000))
        assert len(tokens) == 1 + 3  # the role chunk
        assert (error["error"]["code"], done) == (500, "[DONE]")
        await until(lambda: engine.inference.model.num_running == 0)
        assert metrics(engine)["vllm:request_success_total", "abort"] == 1


@pytest.mark.parametrize("faults", [Faults(cut_after=3), Faults(half_close_after=3)])
async def test_a_stream_breaks_off_after_so_many_tokens(faults: Faults) -> None:
    """Reset or half-closed: three tokens, no `[DONE]`, no end of the chunked body, and the slot is free."""
    async with emulated() as engine:
        engine.set_faults(faults)
        try:
            received = await raw(engine, STREAM)
        except ConnectionResetError:
            received = b""
        assert received.count(b'"content":" ') in (0, 3)  # a reset may overtake what was sent
        assert b"[DONE]" not in received
        assert not received.endswith(b"0\r\n\r\n")
        await until(lambda: engine.inference.model.num_running == 0)


@pytest.mark.parametrize("faults", [Faults(cut_after=3), Faults(half_close_after=3)])
async def test_a_unary_answer_breaks_off_in_mid_body(faults: Faults) -> None:
    """Half of the promised bytes, then the connection is closed or half-closed."""
    async with emulated() as engine:
        engine.set_faults(faults)
        head, body = (await raw(engine, UNARY)).split(b"\r\n\r\n", 1)
        assert 0 < len(body) < int(head.lower().split(b"content-length: ")[1])


async def test_usage_can_be_missing_or_wrong() -> None:
    """Lies for an adapter to survive: no usage at all, or a count that the stream contradicts."""
    async with emulated([5]) as engine:
        options: dict[str, Any] = {"stream_options": {"include_usage": True}}
        engine.set_faults(Faults(usage=UsageLie.MISSING))
        assert (await post(engine, CHAT, chat()))[1]["usage"] is None
        assert not any("usage" in data for _, data in await events(engine, CHAT, chat(**options)))
        engine.set_faults(Faults(usage=UsageLie.WRONG))
        assert (await post(engine, CHAT, chat()))[1]["usage"]["completion_tokens"] != 5
        found = await events(engine, CHAT, chat(**options))
        assert found[-2][1]["usage"]["completion_tokens"] != 5


async def test_death_resets_connections_and_closes_the_port() -> None:
    """kill -9: streams break, connects are refused, the queue is lost; a new life has the same port."""
    async with emulated(profile=quick_profile(max_num_seqs=1)) as engine:
        tasks = [asyncio.create_task(raw(engine, STREAM.replace(b"20", b"3000"))) for _ in range(3)]
        await until(lambda: engine.inference.model.num_waiting == 2)
        await engine.die()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, ConnectionResetError) or b"[DONE]" not in end for end in ends)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", engine.port)
        port = engine.port
        await engine.start()
        assert engine.port == port
        assert engine.inference.model.num_waiting == 0
        assert (await post(engine, CHAT, chat()))[0] == 200


async def test_an_idle_connection_is_closed_after_its_keep_alive() -> None:
    """The engine hangs up; a proxy that reuses the connection then writes into the void."""
    async with emulated(keep_alive_s=0.1) as engine:
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(60):
            received = await reader.read()
        assert received.startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()


async def test_faults_by_http_need_permission() -> None:
    """POST /emulator/faults exists only with `allow_faults`; nonsense is a 400."""
    async with emulated() as engine:
        assert (await post(engine, "/emulator/faults", {"refuse": True}))[0] == 404
    async with emulated(allow_faults=True) as engine:
        status, faults = await post(engine, "/emulator/faults", {"refuse": True})
        assert (status, faults["refuse"]) == (200, True)
        assert (await post(engine, CHAT, chat()))[0] == 503
        assert (await post(engine, "/emulator/faults", {"explode": True}))[0] == 400
        assert (await post(engine, "/emulator/faults", {"slowness": 0}))[0] == 400
        assert (await post(engine, "/emulator/faults", {}))[0] == 200
        assert (await post(engine, CHAT, chat()))[0] == 200
