"""Drain: nothing new comes in, what waits and runs ends, then the proxy stops; and stopping never hangs."""

import asyncio
from pathlib import Path

from harness import (
    CHAT,
    ask_raw,
    bare,
    chat,
    engine_of,
    error_of,
    eventually,
    outcomes,
    post,
    proxy_before,
    raw_client,
)
from scripted_engine import Call, ScriptedEngine, chunk, stream_head

from predictor.traffic_store import read_records
from proxy.app import Headway


async def at_work(headway: Headway, waiting: int, running: int) -> None:
    """Wait until so many wait and run."""
    await eventually(lambda: (headway.status().waiting, headway.status().running) == (waiting, running))


async def test_what_was_taken_in_is_finished() -> None:
    """Held and running requests end with their answers; new ones get a 503; then the drain is over."""
    async with engine_of([20], slots=1) as engine, proxy_before(engine.url, mode="hold", window=1) as headway:
        engine.inference.loop.set_slowness(1000)
        taken = [asyncio.create_task(ask_raw(headway, post(CHAT, chat(stream=bool(i))))) for i in range(3)]
        await at_work(headway, 2, 1)
        drained = asyncio.create_task(headway.drain())
        await eventually(lambda: headway.status().draining)
        got = await ask_raw(headway, post(CHAT, chat()))
        assert got.status == 503
        assert got.header("x-should-retry") is None
        error_of(got.body, "draining")
        assert not drained.done()
        engine.inference.loop.set_slowness(1)
        assert {(await task).status for task in taken} == {200}
        assert await drained
        assert await outcomes(headway) == {"completed": 3, "refused_draining": 1}


async def test_readiness_goes_first() -> None:
    """Load balancers see a draining proxy at once; it stays alive."""
    async with engine_of() as engine, proxy_before(engine.url) as headway:
        for path in ("/readyz", "/health", "/healthz"):
            assert (await ask_raw(headway, bare("GET", path))).status == 200
        assert await headway.drain()
        for path, status in (("/readyz", 503), ("/health", 503), ("/healthz", 200), ("/metrics", 200)):
            assert (await ask_raw(headway, bare("GET", path))).status == status


async def test_the_grace_period_ends(tmp_path: Path) -> None:
    """What is not done after `drain_s` gets a clear error, the engine's slots are freed, each one is an end."""
    settings = {"state": tmp_path, "drain_s": 0.1, "mode": "hold", "window": 2}
    async with engine_of([1_000_000], slots=2) as engine, proxy_before(engine.url, **settings) as headway:
        bodies = [chat(stream=True), chat(), chat()]
        asked = []
        for number, body in enumerate(bodies):
            asked.append(asyncio.create_task(ask_raw(headway, post(CHAT, body))))
            await at_work(headway, max(0, number - 1), min(2, number + 1))
        await eventually(lambda: engine.inference.model.num_running == 2)
        assert not await headway.drain()
        async with asyncio.timeout(60):
            await headway.stop()
        streamed, running, waiting = [await task for task in asked]
        assert not streamed.complete
        error_of(streamed.body.split(b"data: ")[-1].strip(), "draining")
        for refused in (running, waiting):
            assert refused.status == 503
            error_of(refused.body, "draining")
        assert (headway.status().waiting, headway.status().running) == (0, 0)
        await eventually(lambda: engine.inference.model.num_running == 0)
        outcomes_ = [record.outcome.value for record in read_records(tmp_path / "traffic.db")]
        assert outcomes_ == ["refused_draining"] * 3


async def test_an_engine_that_never_ends_holds_no_shutdown_up() -> None:
    """`stop` does not wait for anybody: a client that does not read is cut as well."""

    async def endless(call: Call) -> None:
        await call.send(stream_head())
        while True:
            await call.send(chunk(b"data: " + b"x" * 60_000 + b"\n\n"))

    async with (
        ScriptedEngine(endless) as engine,
        proxy_before(engine.url, drain_s=0.0) as headway,
        raw_client(headway) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(post(CHAT, chat(stream=True)))
        await eventually(lambda: headway.status().running == 1)
        assert not await headway.drain()
        async with asyncio.timeout(60):
            await headway.stop()
        client.reset()


async def test_a_drain_with_idle_connections_is_done_at_once() -> None:
    """Connections that clients keep open without a request hold nobody up."""
    async with (
        engine_of() as engine,
        proxy_before(engine.url, drain_s=600) as headway,
        raw_client(headway) as client,
    ):
        await client.send(post(CHAT, chat()))
        await client.answer()
        assert await headway.drain()
        async with asyncio.timeout(60):
            await headway.stop()
        assert await client.rest() == b""


async def test_a_body_that_is_being_sent_is_waited_for() -> None:
    """A request whose body is still coming when the drain begins is taken in and answered."""
    async with engine_of() as engine, proxy_before(engine.url) as headway, raw_client(headway) as client:
        request = post(CHAT, chat())
        await client.send(request[:-5])
        await eventually(lambda: headway._active.__int__() == 1)
        drained = asyncio.create_task(headway.drain())
        await eventually(lambda: headway.status().draining)
        await client.send(request[-5:])
        assert (await client.answer()).status == 200
        assert await drained


async def test_stopping_twice_or_early_is_harmless() -> None:
    """`stop` ends what there is, also where nothing was asked yet."""
    async with engine_of() as engine, proxy_before(engine.url) as headway:
        await headway.stop()
