"""A Redis that refuses, hangs, is something else or speaks TLS: said once and clearly, and no request waits for it."""

import asyncio
import logging
import re
import ssl
from pathlib import Path

import pytest
from harness import ask, eventually, metrics_text, proxy_before
from redis_server import redis_server, way_to

from predictor.redis_address import RedisAddress
from predictor.traffic_stream import STREAM
from proxy.shared.link import Link
from training.emulator import EmulatedEngine

SECRET = "xylophonesecret"


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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proxy serves, says once and clearly what is wrong, never names the password, and counts what it lost."""
    failures: list[str] = []
    failed = Link._failed

    def count(link: Link, part: str, reason: str) -> None:
        failures.append(reason)
        failed(link, part, reason)

    monkeypatch.setattr(Link, "_failed", count)
    monkeypatch.setattr("proxy.shared.link._LONGEST_BACKOFF_S", 0.05)
    async with redis_server(tmp_path, *options) as server:
        given = dict(given)
        password, scheme = given.pop("password", ""), given.pop("scheme", "redis")
        if scheme == "rediss":
            # A handshake with what speaks no TLS ends by its time-out alone.
            monkeypatch.setattr("proxy.shared.link._ANSWER_S", 0.2)
        url = url or f"{scheme}://:{password}@127.0.0.1:{server.port}/0"
        with caplog.at_level(logging.INFO):
            async with proxy_before(engine.url, state=tmp_path, redis=url, **given) as headway:
                for _ in range(5):
                    await ask(headway)
                await eventually(lambda: "goes on alone" in caplog.text)
                assert "headway_redis_up 0.0" in await metrics_text(headway)
                tried = len(failures)
                await eventually(lambda: len(failures) > tried + 5)
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


async def certified(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for 127.0.0.1, and a server's context with it."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=redis"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "ca.pem"]
    quiet = asyncio.subprocess.DEVNULL
    made = await asyncio.create_subprocess_exec(*command, cwd=folder, stderr=quiet)
    assert await made.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return folder / "ca.pem", context


async def test_over_tls(engine: EmulatedEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """rediss:// with a private CA: in with its certificate, by setting or by URL; shut out without, and serving."""
    ca, context = await certified(tmp_path)
    async with redis_server(tmp_path) as server, way_to(server.port, tls=context) as port:
        url = f"rediss://127.0.0.1:{port}/0"
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
    ca, context = await certified(tmp_path)
    answering = asyncio.Event()
    answering.set()
    async with (
        redis_server(tmp_path) as server,
        way_to(server.port, tls=context) as inner,
        way_to(inner, answering=answering) as port,
    ):
        link = Link(RedisAddress(f"rediss://127.0.0.1:{port}/0", ca_file=str(ca)))
        await link.client.ping()
        answering.clear()
        try:
            await link.close()
        finally:
            answering.set()
        assert "not closed in good order" in caplog.text
