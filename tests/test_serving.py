"""The path of one request: it ends exactly once, gives everything back, and leaves when its client leaves."""

import asyncio
import logging
import random
from pathlib import Path

import pytest
from harness import (
    CHAT,
    ask_raw,
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
from scripted_engine import Call, ScriptedEngine, chunk, stream_head

from predictor.prediction import Prediction
from predictor.traffic_store import read_records
from proxy.app import Headway
from proxy.ranking import Ranking
from training.emulator import EmulatedEngine, Faults, Garbage

LONG = 100_000


async def held(headway: Headway, waiting: int, running: int) -> None:
    """Wait until so many wait and run at the proxy."""
    await eventually(lambda: (headway.status().waiting, headway.status().running) == (waiting, running))


async def test_a_client_that_leaves_while_it_waits_leaves_the_queue() -> None:
    """Gone from the queue at once, never sent to the engine, counted once."""
    async with engine_of([LONG]) as engine, proxy_before(engine.url, mode="hold", window=1) as headway:
        async with raw_client(headway) as first:
            await first.send(post(CHAT, chat(stream=True)))
            await held(headway, 0, 1)
            async with raw_client(headway) as second:
                await second.send(post(CHAT, chat(stream=True)))
                await held(headway, 1, 1)
                second.reset()
                await held(headway, 0, 1)
            assert len(engine.received) == 1
            assert await outcomes(headway) == {"client_gone": 1}
        await idle(headway)
        assert await outcomes(headway) == {"client_gone": 2}


@pytest.mark.parametrize("streams", [False, True])
async def test_a_client_that_leaves_while_it_runs_frees_the_engine(streams: bool) -> None:
    """Its upstream connection closes, the engine aborts and its slot is free; the next in line goes on."""
    async with engine_of([LONG, LONG], slots=1) as engine, proxy_before(engine.url, window=1) as headway:
        async with raw_client(headway) as client:
            await client.send(post(CHAT, chat(stream=streams)))
            await eventually(lambda: engine.inference.model.num_running == 1)
            async with raw_client(headway) as next_in_line:
                await next_in_line.send(post(CHAT, chat(max_tokens=3)))
                await held(headway, 1, 1)
                client.reset()
                assert (await next_in_line.answer()).status == 200
        await idle(headway)
        assert engine.inference.model.num_running == 0
        assert await outcomes(headway) == {"client_gone": 1, "completed": 1}


async def test_places_come_back_however_requests_end() -> None:
    """After every kind of fault the window is as wide as before: as many run at once as ever."""
    faults = [
        Faults(refuse=True),
        Faults(garbage=Garbage.BYTES),
        Faults(garbage=Garbage.JSON),
        Faults(garbage=Garbage.SHORT_BODY),
        Faults(garbage=Garbage.LONG_BODY),
        Faults(error_first=True),
        Faults(error_after=2),
        Faults(cut_after=2),
        Faults(half_close_after=2),
        Faults(hang=True),
    ]
    async with (
        engine_of([6]) as engine,
        proxy_before(engine.url, mode="hold", window=3, engine_timeout_s=2.0) as headway,
    ):
        for fault in faults:
            engine.set_faults(fault)
            bodies = [chat(stream=bool(number % 2)) for number in range(6)]
            await asyncio.gather(*(ask_raw(headway, post(CHAT, body)) for body in bodies))
            assert (headway.status().waiting, headway.status().running) == (0, 0), fault
        engine.set_faults(Faults())
        engine.inference.loop.set_slowness(1000)
        last = [asyncio.create_task(ask_raw(headway, post(CHAT, chat()))) for _ in range(6)]
        await held(headway, 3, 3)
        engine.inference.loop.set_slowness(1)
        assert {(await task).status for task in last} == {200}
        assert sum((await outcomes(headway)).values()) == 6 * (len(faults) + 1)


async def client_that_may_leave(headway: Headway, rng: random.Random) -> str:
    """One client of a crowd: most stay, some leave while they send, wait or read."""
    kind = rng.choice(
        ["stays"] * 7 + ["leaves while sending", "leaves while waiting", "leaves while reading"]
    )
    request = post(CHAT, chat(stream=rng.random() < 0.7 or kind == "leaves while reading"))
    async with raw_client(headway) as client:
        if kind == "leaves while sending":
            await client.send(request[: -rng.randrange(1, 20)])
        else:
            await client.send(request)
        if kind == "leaves while reading":
            await client.reader.read(1)
        elif kind == "leaves while waiting":
            await asyncio.sleep(rng.random() * 0.05)
        elif kind == "stays":
            await client.answer()
        if kind != "stays":
            client.reset()
    return kind


@pytest.mark.parametrize("mode", ["engine", "hold", "hybrid"])
async def test_every_request_of_a_restless_crowd_ends_exactly_once(mode: str, tmp_path: Path) -> None:
    """30% of the clients leave at any moment: as many ends as requests, in the metrics and in the log."""
    rng = random.Random(mode)
    async with engine_of([5, 10, 20], slots=8) as engine:
        async with proxy_before(engine.url, state=tmp_path, mode=mode, window=8) as headway:
            kinds = await asyncio.gather(*(client_that_may_leave(headway, rng) for _ in range(200)))

            async def all_ended() -> bool:
                return sum((await outcomes(headway)).values()) == 200

            await eventually(all_ended)
            await idle(headway)
            ends = await outcomes(headway)
            assert ends["completed"] >= kinds.count("stays")
            assert set(ends) <= {"completed", "client_gone"}
        await eventually(lambda: engine.inference.model.num_running == 0)
    records = list(read_records(tmp_path / "traffic.db"))
    assert len(records) == len({record.request_id for record in records}) == 200


async def test_an_engine_that_dies_and_comes_back_costs_each_request_one_end() -> None:
    """kill -9 with requests running and waiting, then a new life: each request ends once, nothing is stuck."""
    async with engine_of([30], slots=4) as engine, proxy_before(engine.url, mode="hold", window=4) as headway:
        crowd = [
            asyncio.create_task(ask_raw(headway, post(CHAT, chat(stream=bool(number % 2)))))
            for number in range(40)
        ]
        await eventually(lambda: engine.inference.model.num_running == 4)
        await engine.die()
        await engine.start()
        statuses = [(await task).status for task in crowd]
        assert set(statuses) <= {200, 502, 503}
        await idle(headway)
        ends = await outcomes(headway)
        assert sum(ends.values()) == 40
        assert ends["engine_lost"] >= 1
        assert ends["completed"] >= 30


async def test_without_any_engine_requests_are_refused_not_kept() -> None:
    """After `engine_wait_s` without an engine, those who wait get a 503, and so does whoever comes."""
    async with engine_of([30], slots=1) as engine, proxy_before(engine.url, engine_wait_s=0.1) as headway:
        await engine.stop()
        for _ in range(2):
            got = await ask_raw(headway, post(CHAT, chat()))
            assert got.status == 503
            assert got.header("x-should-retry") is None
            error_of(got.body, "engine_unreachable")
        assert (await ask_raw(headway, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")).status == 503
        assert (await ask_raw(headway, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
        assert await outcomes(headway) == {"engine_lost": 2}


async def test_requests_wait_for_an_engine_that_restarts() -> None:
    """A short absence of the engine costs waiting, not answers: nothing was sent, so all is sent again."""
    async with engine_of([3]) as engine, proxy_before(engine.url, engine_wait_s=30) as headway:
        await engine.stop()
        crowd = [asyncio.create_task(ask_raw(headway, post(CHAT, chat()))) for _ in range(5)]
        await held(headway, 5, 0)
        await engine.start()
        assert {(await task).status for task in crowd} == {200}
        assert await outcomes(headway) == {"completed": 5}


async def test_a_dead_replica_costs_nobody_an_answer() -> None:
    """With two engines, connections that one refuses go to the other."""
    async with engine_of([3]) as one, engine_of([3]) as other, proxy_before(one.url, other.url) as headway:
        await one.stop()
        answers = await asyncio.gather(*(ask_raw(headway, post(CHAT, chat())) for _ in range(20)))
        assert {answer.status for answer in answers} == {200}
        assert len(other.received) == 20


async def test_a_queue_that_is_full_refuses_at_once() -> None:
    """Beyond `max_waiting`: 429 with Retry-After, and the SDKs are told not to try again by themselves."""
    settings = {"mode": "hold", "window": 1, "max_waiting": 2}
    async with engine_of([LONG], slots=1) as engine, proxy_before(engine.url, **settings) as headway:
        crowd = [asyncio.create_task(ask_raw(headway, post(CHAT, chat(stream=True)))) for _ in range(3)]
        await held(headway, 2, 1)
        got = await ask_raw(headway, post(CHAT, chat()))
        assert got.status == 429
        assert int(got.header("Retry-After") or 0) >= 1
        assert got.header("x-should-retry") == "false"
        error_of(got.body, "queue_full")
        assert await outcomes(headway) == {"refused_full": 1}
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        await idle(headway)


async def test_a_client_that_does_not_read_stops_the_engine_from_being_read() -> None:
    """Back-pressure: what nobody reads stays in the engine's socket, not in the proxy's memory."""
    sent = 0

    async def endless(call: Call) -> None:
        nonlocal sent
        await call.send(stream_head())
        event = chunk(b"data: " + b"x" * 60_000 + b"\n\n")
        while True:
            await call.send(event)
            sent += len(event)

    async with ScriptedEngine(endless) as engine, proxy_before(engine.url) as headway:
        async with raw_client(headway) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(post(CHAT, chat(stream=True)))
            await eventually(lambda: sent > 0)
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.3)
            assert sent < 32 << 20
            client.reset()
        await idle(headway)


def breaks(*_: object) -> None:
    """What a method does that has a defect."""
    raise ZeroDivisionError("a defect of the ranker")


NAN = float("nan")


@pytest.mark.parametrize(
    ("method", "broken"),
    [
        ("features", breaks),
        ("score", breaks),
        ("observe", breaks),
        ("score", lambda *_: Prediction(NAN, NAN, NAN, NAN)),
        ("score", lambda *_: Prediction(0.5, float("inf"), 0.0, 1.0)),
        ("score", lambda *_: Prediction(-1e300, -1e300, -1e300, -1e300)),
        ("score", lambda *_: Prediction(1e300, 1e300, 1e300, 1e300)),
    ],
)
async def test_a_broken_ranker_costs_no_answer(
    method: str, broken: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever prediction does, raise or talk nonsense, the client is served, and it is said."""
    monkeypatch.setattr(f"predictor.lightgbm_ranker.LightGBMRanker.{method}", broken)
    ranking = Ranking()
    assert ranking.load()
    async with engine_of([5]) as engine, proxy_before(engine.url, estimator=ranking) as headway:
        for streams in (False, True):
            got = await ask_raw(headway, post(CHAT, chat(stream=streams)))
            assert got.status == 200
            assert got.complete
            assert 0 <= int(got.header("x-headway-predicted-tokens") or -1) < 10**9
        assert await outcomes(headway) == {"completed": 2}
    assert ranking.failures == 2
    assert "the ranker" in caplog.text


async def test_a_defect_in_mid_answer_ends_the_connection(
    engine: EmulatedEngine,
    headway: Headway,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A defect of our own after the answer has begun: logged, counted, and no second answer inside the first."""

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr("proxy.sse.StreamObserver.close", broken)
    got = await ask_raw(headway, post(CHAT, chat(stream=True)))
    assert got.status == 200
    assert not got.complete
    assert b"HTTP/1.1" not in got.raw[8:]
    assert await outcomes(headway) == {"internal_error": 1}
    assert any(record.levelno == logging.ERROR for record in caplog.records)
