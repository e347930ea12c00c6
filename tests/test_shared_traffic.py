"""The traffic log on a Redis stream: every ended request is there once, or counted; no request ever waits."""

import asyncio
import logging
import re
import signal
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from harness import CHAT, ask_raw, chat, eventually, metrics_text, post, proxy_before
from redis_server import RedisServer, redis_server

from predictor.records import Outcome, TrafficRecord
from predictor.redis_address import RedisAddress
from predictor.traffic_stream import STREAM, read_stream
from proxy.app import Headway
from proxy.ranking import Ranking
from proxy.shared.link import Link
from proxy.shared.traffic import StreamLog
from training.emulator import EmulatedEngine

SECRET = "xylophonesecret"


def rows(server: RedisServer) -> list[TrafficRecord]:
    """What a reader of the stream gets."""
    return [record for record, _ in read_stream(RedisAddress(server.url))]


async def ask(headway: Headway) -> None:
    """One request, answered in full."""
    assert (await ask_raw(headway, post(CHAT, chat(model="emulated")))).status == 200


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
        link = Link(RedisAddress(server.url))
        log = StreamLog(link, "p", keep_rows=100_000)
        for number in range(2_500):
            log.put(TrafficRecord(f"r{number}", number * 10**6, CHAT, Outcome.COMPLETED))
        await log.close()
        await link.close()
        assert (log.written, log.dropped) == (2_500, 0)
        address = RedisAddress(server.url)
        found = await asyncio.to_thread(lambda: [one.request_id for one, _ in read_stream(address)])
        assert found == [f"r{number}" for number in range(2_500)]
        some = await asyncio.to_thread(lambda: list(read_stream(address, 100 * 10**6, 200 * 10**6)))
        assert [one.arrival_us for one, _ in some] == [number * 10**6 for number in range(100, 200)]


async def test_the_stream_is_bounded(tmp_path: Path) -> None:
    """Redis never holds many more rows than it may, however many come."""
    async with redis_server(tmp_path) as server:
        link = Link(RedisAddress(server.url))
        log = StreamLog(link, "p", keep_rows=200)
        for number in range(5_000):
            log.put(TrafficRecord(f"r{number}", number, CHAT, Outcome.COMPLETED))
        await log.close()
        await link.close()
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
    async with redis_server(tmp_path) as server:
        link = Link(RedisAddress(server.url))
        log = StreamLog(link, "p", keep_rows=1_000)
        log.put(TrafficRecord("r0", 0, CHAT, Outcome.COMPLETED))
        await log.close()
        log.put(TrafficRecord("r1", 1, CHAT, Outcome.COMPLETED))
        server.freeze()
        flushing = asyncio.create_task(log._outbox.flush())
        await asyncio.sleep(1)
        # The command is in the server's socket; whoever waits for its answer is gone.
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        server.thaw()
        await eventually(lambda: _length_is(server, 2))
        await log.close()
        await link.close()
        assert log.written == 2
        assert [row.request_id for row in await asyncio.to_thread(rows, server)] == ["r0", "r1"]


async def _length_is(server: RedisServer, length: int) -> bool:
    return bool(await server.client.xlen(STREAM) == length)


async def test_without_redis_the_queue_is_bounded_and_drops_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis away for longer than the queue lasts: what does not fit is counted, and nothing else is lost."""
    monkeypatch.setattr("proxy.shared.traffic._QUEUE", 100)
    async with redis_server(tmp_path) as server:
        await server.kill()
        link = Link(RedisAddress(server.url))
        log = StreamLog(link, "p", keep_rows=1_000)
        running = asyncio.create_task(log.run())
        for number in range(250):
            log.put(TrafficRecord(f"r{number}", number, CHAT, Outcome.COMPLETED))
        assert log.dropped == 150
        await server.start()
        await eventually(lambda: log.written == 100)
        running.cancel()
        await log.close()
        await link.close()
        assert (log.written, log.dropped) == (100, 150)


async def test_one_bad_record_takes_no_other_with_it(tmp_path: Path) -> None:
    """A record that cannot be encoded is counted as dropped; those beside it are written."""
    async with redis_server(tmp_path) as server:
        link = Link(RedisAddress(server.url))
        log = StreamLog(link, "p", keep_rows=1_000)
        for number, model in enumerate(("m", "\ud800", "m")):
            log.put(TrafficRecord(f"r{number}", number, CHAT, Outcome.COMPLETED, model=model))
        await log.close()
        await link.close()
        assert (log.written, log.dropped) == (2, 1)


BAD = {
    "not there": ([], "redis://127.0.0.1:9/0", {}, "111"),
    "wrong password": (["--requirepass", SECRET + "1"], None, {"password": SECRET}, "refuses the password"),
    "no password": (["--requirepass", SECRET], None, {}, "refuses the password"),
    "no password file": ([], None, {"redis_password_file": "/none/there"}, "/none/there"),
    "no such CA": ([], None, {"scheme": "rediss", "redis_ca_file": "/none/ca.crt"}, "ca.crt|No such file"),
    "no TLS there": ([], None, {"scheme": "rediss"}, "127.0.0.1"),
    "out of memory": (["--maxmemory", "1", "--maxmemory-policy", "noeviction"], None, {}, "used memory"),
    "read only": (["--replicaof", "127.0.0.1", "9"], None, {}, "read only replica"),
}


@pytest.mark.parametrize(("options", "url", "given", "said"), BAD.values(), ids=BAD)
async def test_a_redis_that_does_not_work(
    options: list[str],
    url: str | None,
    given: dict[str, str],
    said: str,
    engine: EmulatedEngine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The proxy serves, says once and clearly what is wrong, never names the password, and counts what it lost."""
    async with redis_server(tmp_path, *options) as server:
        given = dict(given)
        password, scheme = given.pop("password", ""), given.pop("scheme", "redis")
        url = url or f"{scheme}://:{password}@127.0.0.1:{server.port}/0"
        with caplog.at_level(logging.INFO):
            async with proxy_before(engine.url, state=tmp_path, redis=url, **given) as headway:
                for _ in range(5):
                    await ask(headway)
                await eventually(lambda: "Redis at" in caplog.text)
                assert "headway_redis_up 0.0" in await metrics_text(headway)
                await asyncio.sleep(1)
        lines = [one.getMessage() for one in caplog.records if one.name == "headway.redis"]
        warnings = [line for line in lines if "goes on alone" in line]
        assert any(re.search(said, line) for line in warnings), lines
        assert len(warnings) == len(set(warnings)) <= 3
        assert headway.status().outcomes == {"completed": 5}
        assert headway.status().traffic_log_dropped == 5
        assert SECRET not in caplog.text


async def test_something_else_answers_there(engine: EmulatedEngine, tmp_path: Path, caplog) -> None:
    """Another server's port in place of Redis's is said in plain words, and costs nobody an answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{other.sockets[0].getsockname()[1]}"
    async with other, proxy_before(engine.url, state=tmp_path, redis=url) as headway:
        await ask(headway)
        await eventually(lambda: "no Redis" in caplog.text)


async def test_a_redis_that_hangs(
    engine: EmulatedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that holds its connections and never answers delays no request."""
    # Nobody gives up waiting for it: a request that waited would never be answered.
    monkeypatch.setattr("proxy.shared.link._ANSWER_S", 3600.0)
    async with (
        redis_server(tmp_path) as server,
        proxy_before(engine.url, state=tmp_path, redis=server.url) as headway,
    ):
        await ask(headway)
        server.freeze()
        try:
            for _ in range(200):
                await ask(headway)
        finally:
            server.thaw()
        await eventually(lambda: headway.status().traffic_log_written == 201)


async def test_a_proxy_that_ends_writes_its_last_rows(engine: EmulatedEngine, tmp_path: Path) -> None:
    """Stopped right after its last answer, a proxy still hands its record over."""
    async with redis_server(tmp_path) as server:
        async with proxy_before(engine.url, state=tmp_path, redis=server.url) as headway:
            await ask(headway)
        assert len(await asyncio.to_thread(rows, server)) == 1
        await server.kill(signal.SIGTERM)


async def test_over_tls(engine: EmulatedEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """rediss:// with a private CA: in with its certificate, by setting or by URL; shut out without, and serving."""
    ca = await certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, tmp_path / "key.pem")
    async with redis_server(tmp_path) as server:
        front = await asyncio.start_server(to_port(server.port), "127.0.0.1", 0, ssl=context)
        url = f"rediss://127.0.0.1:{front.sockets[0].getsockname()[1]}/0"
        async with front:
            for settings in ({"redis": url, "redis_ca_file": str(ca)}, {"redis": f"{url}?ssl_ca_certs={ca}"}):
                async with proxy_before(engine.url, state=tmp_path, **settings) as headway:
                    await ask(headway)
                    await eventually(lambda: headway.status().traffic_log_written == 1)
            async with proxy_before(engine.url, state=tmp_path, redis=url) as headway:
                await ask(headway)
                await eventually(lambda: "certificate" in caplog.text.lower())
        assert await server.client.xlen(STREAM) == 2


async def test_over_tls_a_redis_that_hangs_holds_up_no_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS asks the other side to end a connection with it; where no answer comes, it is said and gone without."""
    monkeypatch.setattr("proxy.shared.link._CLOSE_S", 0.2)
    ca, passing = await certificate(tmp_path), asyncio.Event()
    passing.set()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, tmp_path / "key.pem")
    async with redis_server(tmp_path) as server:
        front = await asyncio.start_server(to_port(server.port), "127.0.0.1", 0, ssl=context)
        to_front = to_port(front.sockets[0].getsockname()[1], passing)
        before = await asyncio.start_server(to_front, "127.0.0.1", 0)
        url = f"rediss://127.0.0.1:{before.sockets[0].getsockname()[1]}/0"
        async with front, before:
            link = Link(RedisAddress(url, ca_file=str(ca)))
            await link.client.ping()
            passing.clear()
            try:
                await link.close()
            finally:
                passing.set()
        assert "not closed in good order" in caplog.text


async def certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, its key beside it."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=redis"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "ca.pem"]
    quiet = asyncio.subprocess.DEVNULL
    made = await asyncio.create_subprocess_exec(*command, cwd=folder, stderr=quiet)
    assert await made.wait() == 0
    return folder / "ca.pem"


def to_port(
    port: int, passing: asyncio.Event | None = None
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """What ends TLS before a Redis that speaks none; it holds everything back while `passing` is not set."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if passing is not None:
                    await passing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, outer), pass_on(inner, writer))

    return serve
