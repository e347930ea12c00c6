"""An engine that is not what it was, or not what it seems: another model, a router, TLS, a wrong key."""

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dropping_router import dropping_router
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
)
from scripted_engine import JSON, ScriptedEngine, reply

from proxy.serve import needing_restart
from proxy.settings import Settings, SettingsError
from training.emulator import EmulatedEngine
from training.engine import SchedulingPolicy

TLS = Path(__file__).parent / "data" / "tls"
CA = str(TLS / "ca.pem")


@asynccontextmanager
async def tls_before(engine: EmulatedEngine) -> AsyncIterator[str]:
    """The engine behind TLS with a certificate of a private CA, for 127.0.0.1; gives its URL."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "server.pem")
    port = int(engine.url.rpartition(":")[2])

    async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                to.write(data)
                await to.drain()
        except OSError:
            pass
        finally:
            to.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_an_engine_behind_tls_with_a_private_ca() -> None:
    """With the CA's file all is as without TLS: detected, healthy, unary and streamed."""
    async with (
        engine_of() as engine,
        tls_before(engine) as url,
        proxy_before(url, engine_ca_file=CA) as headway,
    ):
        assert headway.status().engines[0].kind == "vllm"
        for stream in (False, True):
            got = await ask_raw(headway, post(CHAT, chat(stream=stream)))
            assert got.status == 200 and got.complete
        await idle(headway)
        assert await outcomes(headway) == {"completed": 2}


async def test_an_unknown_ca_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody has to guess why an engine that runs is not there: the log is told of the certificate."""
    async with engine_of() as engine, tls_before(engine) as url, proxy_before(url) as headway:
        got = await ask_raw(headway, post(CHAT, chat()))
        assert got.status == 503
        error_of(got.body, "engine_unreachable")
        assert (await ask_raw(headway, bare("GET", "/readyz"))).status == 503
    assert any("certificate" in record.getMessage() for record in caplog.records)


async def test_a_certificate_for_another_host_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """The CA alone is not enough."""
    async with (
        engine_of() as engine,
        tls_before(engine) as url,
        proxy_before(url.replace("127.0.0.1", "localhost"), engine_ca_file=CA) as headway,
    ):
        got = await ask_raw(headway, post(CHAT, chat()))
        error_of(got.body, "engine_unreachable")
    assert "certificate" in caplog.text


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_holds_none_is_one_clear_line(tmp_path: Path, content: str | None) -> None:
    """Before anything is served."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=r"ca\.pem"):
        async with proxy_before("https://127.0.0.1:9", engine_ca_file=str(file)):
            pass


async def test_a_wrong_engine_key_is_said_and_the_refusal_passes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the setting; the client gets the engine's own 401, and not our key."""
    caplog.set_level(logging.INFO)
    key = tmp_path / "key"
    key.write_text("wrong")
    async with (
        engine_of(api_key="right") as engine,
        proxy_before(engine.url, engine_api_key_file=str(key)) as headway,
    ):
        got = await ask_raw(headway, post(CHAT, chat(), "Authorization: Bearer right"))
        assert (got.status, got.body) == (401, b'{"error":"Unauthorized"}')
        assert await outcomes(headway) == {"engine_error": 1}
    said = [record.getMessage() for record in caplog.records]
    assert any("refuses the proxy's API key (engine_api_key_file)" in line for line in said)
    assert not any("wrong" in line for line in said)


async def test_another_model_behind_the_same_address() -> None:
    """Back with another model, the engine is asked again; who still wants the old one gets the engine's word."""
    async with engine_of(served_model_name="old") as engine, proxy_before(engine.url) as headway:
        assert headway.status().engines[0].models == ["old"]
        assert (await ask_raw(headway, post(CHAT, chat(model="old")))).status == 200
        await engine.die()
        await eventually(lambda: not headway.status().engines[0].available)
        engine.config = msgspec.structs.replace(engine.config, served_model_name="new")
        await engine.start()
        await eventually(lambda: headway.status().engines[0].available)
        assert headway.status().engines[0].models == ["new"]
        got = await ask_raw(headway, post(CHAT, chat(model="old")))
        assert got.status == 404
        assert (await ask_raw(headway, post(CHAT, chat(model="new")))).status == 200


async def test_an_engine_that_moved_to_another_port_is_missed_by_its_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names the old address; the new one must be configured."""
    async with engine_of() as engine, proxy_before(engine.url, engine_wait_s=0.0) as headway:
        await engine.die()
        await eventually(lambda: not headway.status().engines[0].available)
        got = await ask_raw(headway, post(CHAT, chat()))
        error_of(got.body, "engine_unreachable")
        assert f"no engine can serve: No connection to the engine: {engine.url}" in caplog.text


def test_a_setting_that_a_signal_cannot_change_is_named() -> None:
    """An engine's new port in the file needs a restart, and the log says so."""
    running = Settings(engine=("http://a:1",))
    assert needing_restart(running, Settings(engine=("http://a:2",), window=3, policy="fcfs")) == [
        *("engine", "window")
    ]
    assert needing_restart(running, running) == []


async def test_something_else_on_the_engines_port_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A server that has no health route of an engine's: the log tells the status it answers with."""
    nothing = reply(b"", JSON, status="500 x")
    async with (
        ScriptedEngine(nothing) as engine,
        proxy_before(engine.url + "/there", engine_kind="vllm") as headway,
    ):
        got = await ask_raw(headway, post(CHAT, chat()))
        error_of(got.body, "engine_unreachable")
        assert "/health with status 500" in caplog.text


async def crowd(headway: Any) -> None:
    """Eighty streams of believed sizes, a few milliseconds apart."""
    rng = random.Random(3)

    async def one(place: int) -> None:
        await asyncio.sleep(place * 0.003)
        body = chat(stream=True, max_tokens=rng.randrange(10, 1000))
        assert (await ask_raw(headway, post(CHAT, body))).status == 200

    await asyncio.gather(*(one(place) for place in range(80)))
    await idle(headway)


@pytest.mark.parametrize("what", ["fcfs", "router"])
async def test_where_priorities_are_lost_the_proxy_holds(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """Told to leave the order to the engine, the proxy sees that nothing comes of it, says so and keeps a window.

    Once the engine was restarted it is trusted again, until it is seen to ignore us again.
    """
    policy = SchedulingPolicy.FCFS if what == "fcfs" else SchedulingPolicy.PRIORITY
    async with (
        engine_of([6], slots=2, base_s=0.008, policy=policy) as engine,
        dropping_router(engine.url) as router,
    ):
        url = engine.url if what == "fcfs" else router
        async with proxy_before(url, mode="engine") as headway:
            assert headway.status().engines[0].window is None
            await crowd(headway)
            (status,) = headway.status().engines
            assert (status.kind, status.priority) == ("vllm", "ignored")
            assert status.window is not None
            await engine.die()
            await eventually(lambda: not headway.status().engines[0].available)
            await engine.start()
            await eventually(lambda: headway.status().engines[0].available)
            (status,) = headway.status().engines
            assert (status.priority, status.window) == ("unproven", None)
    assert any("priority ignored" in record.getMessage() for record in caplog.records)
