"""The traffic log on a Redis stream: every ended request is there once, or counted; no request ever waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import CHAT, PATIENCE_S, ask, ask_raw, chat, eventually, post, proxy_before
from redis_server import RedisServer, redis_server, way_to

from predictor.records import Outcome, TrafficRecord
from predictor.redis_address import RedisAddress
from predictor.traffic_stream import STREAM, read_stream
from proxy.ranking import Ranking
from proxy.shared.link import Link
from proxy.shared.traffic import StreamLog
from training.emulator import EmulatedEngine


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stalls is no Redis that does not answer."""
    for name in ("link._ANSWER_S", "outbox._CLOSE_S"):
        monkeypatch.setattr(f"proxy.shared.{name}", PATIENCE_S)


def record(number: int, arrival_us: int = 0, **fields: Any) -> TrafficRecord:
    """A request that was answered."""
    return TrafficRecord(f"r{number}", arrival_us, CHAT, Outcome.COMPLETED, **fields)


@asynccontextmanager
async def stream_log(url: str, keep_rows: int = 100_000) -> AsyncIterator[StreamLog]:
    """A log on that Redis, closed at the end."""
    link = Link(RedisAddress(url))
    log = StreamLog(link, "p", keep_rows=keep_rows)
    yield log
    await log.close()
    await link.close()


def rows(server: RedisServer) -> list[TrafficRecord]:
    """What a reader of the stream gets."""
    return [record for record, _ in read_stream(RedisAddress(server.url))]


async def test_a_row_says_what_came_of_a_request(engine: EmulatedEngine, tmp_path: Path) -> None:
    """A proxy with Redis writes its records there, features and their names included, and no SQLite file."""
    ranking = Ranking()
    assert ranking.load()
    async with redis_server(tmp_path) as server:
        async with proxy_before(
            engine.url, state=tmp_path / "state", redis=server.url, estimator=ranking
        ) as headway:
            got = await ask_raw(headway, post(CHAT, chat(model="emulated")))
        ((row, names),) = await asyncio.to_thread(lambda: list(read_stream(RedisAddress(server.url))))
    assert row.request_id == got.header("x-headway-request-id")
    assert (row.outcome, row.output_tokens, row.model) == (Outcome.COMPLETED, 5, "emulated")
    assert row.features is not None
    assert len(row.features) == 4 * len(names)
    assert not (tmp_path / "state" / "traffic.db").exists()


async def test_a_span_of_time_is_read_in_pages(tmp_path: Path) -> None:
    """`since` and `until` bound arrivals; more rows than a page come in order, each once."""
    async with redis_server(tmp_path) as server:
        async with stream_log(server.url) as log:
            for number in range(2_500):
                log.put(record(number, arrival_us=number * 10**6))
        assert (log.written, log.dropped) == (2_500, 0)
        address = RedisAddress(server.url)
        found = await asyncio.to_thread(lambda: [one.request_id for one, _ in read_stream(address)])
        assert found == [f"r{number}" for number in range(2_500)]
        some = await asyncio.to_thread(lambda: list(read_stream(address, 100 * 10**6, 200 * 10**6)))
        assert [one.arrival_us for one, _ in some] == [number * 10**6 for number in range(100, 200)]


async def test_the_stream_is_bounded(tmp_path: Path) -> None:
    """Redis never holds many more rows than it may, however many come."""
    async with redis_server(tmp_path) as server:
        async with stream_log(server.url, keep_rows=200) as log:
            for number in range(5_000):
                log.put(record(number))
        assert 200 <= await server.client.xlen(STREAM) <= 400


async def test_killed_and_back(engine: EmulatedEngine, tmp_path: Path) -> None:
    """kill -9 under load: every answer comes, and each record is in the stream once when Redis is back."""
    async with (
        redis_server(tmp_path) as server,
        proxy_before(engine.url, state=tmp_path, redis=server.url) as headway,
    ):
        asked = 0

        async def load(until: asyncio.Event) -> None:
            nonlocal asked
            while not until.is_set():
                await ask(headway)
                asked += 1

        stop = asyncio.Event()
        loaders = [asyncio.create_task(load(stop)) for _ in range(8)]
        for _ in range(2):
            already = headway.status().traffic_log_written
            await eventually(lambda before=already: headway.status().traffic_log_written > before + 50)
            await server.kill()
            at_kill = asked
            await eventually(lambda before=at_kill: asked > before + 100)
            await server.start()
        stop.set()
        await asyncio.gather(*loaders)
        await eventually(lambda: headway.status().traffic_log_written == asked)
        assert headway.status().outcomes == {"completed": asked}
        assert headway.status().traffic_log_dropped == 0
        found = await asyncio.to_thread(rows, server)
    assert len(found) == len({row.request_id for row in found}) == asked


async def test_an_answer_lost_with_the_connection(tmp_path: Path) -> None:
    """A batch that was written although its answer never came is not written again."""
    answering = asyncio.Event()
    answering.set()
    async with redis_server(tmp_path) as server, way_to(server.port, answering=answering) as port:
        async with stream_log(f"redis://127.0.0.1:{port}/0") as log:
            log.put(record(0))
            await log.close()
            log.put(record(1))
            answering.clear()
            flushing = asyncio.create_task(log._outbox.flush())

            async def both_are_there() -> bool:
                return bool(await server.client.xlen(STREAM) == 2)

            await eventually(both_are_there)
            flushing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flushing
            answering.set()
        assert log.written == 2
        assert [row.request_id for row in await asyncio.to_thread(rows, server)] == ["r0", "r1"]


async def test_without_redis_the_queue_is_bounded_and_drops_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis away for longer than the queue lasts: what does not fit is counted, and nothing else is lost."""
    monkeypatch.setattr("proxy.shared.traffic._QUEUE", 100)
    async with redis_server(tmp_path) as server:
        await server.kill()
        async with stream_log(server.url) as log:
            running = asyncio.create_task(log.run())
            for number in range(250):
                log.put(record(number))
            assert log.dropped == 150
            await server.start()
            await eventually(lambda: log.written == 100)
            running.cancel()
        assert (log.written, log.dropped) == (100, 150)


async def test_one_bad_record_takes_no_other_with_it(tmp_path: Path) -> None:
    """A record that cannot be encoded is counted as dropped; those beside it are written."""
    async with redis_server(tmp_path) as server:
        async with stream_log(server.url) as log:
            for number, model in enumerate(("m", "\ud800", "m")):
                log.put(record(number, model=model))
        assert (log.written, log.dropped) == (2, 1)


async def test_a_proxy_that_ends_writes_its_last_rows(engine: EmulatedEngine, tmp_path: Path) -> None:
    """Stopped right after its last answer, a proxy still hands its record over."""
    async with redis_server(tmp_path) as server:
        async with proxy_before(engine.url, state=tmp_path, redis=server.url) as headway:
            await ask(headway)
        assert len(await asyncio.to_thread(rows, server)) == 1
