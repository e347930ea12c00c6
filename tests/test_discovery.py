"""Engines behind a name come and go while requests run, and no request is lost over it."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from harness import CHAT, ask_raw, chat, engine_of, error_of, eventually, metrics_text, post, proxy_before

from proxy.app import Headway
from proxy.configuration import load_settings
from proxy.discovery import addresses_of
from proxy.settings import SettingsError
from training.emulator import EmulatedEngine


class Name:
    """A name whose addresses the test decides; engines listen on 127.0.0.1, 127.0.0.2, … at one port."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.addresses: set[str] = set()
        self.broken = False

    @property
    def url(self) -> str:
        return f"dns+http://engines.test:{self.port}/"

    def is_now(self, *numbers: int) -> None:
        self.addresses = {f"127.0.0.{number}" for number in numbers}

    async def resolve(self, host: str, port: int) -> set[str]:
        assert (host, port) == ("engines.test", self.port)
        if self.broken:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return set(self.addresses)


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> Name:
    """The name, asked for often."""
    made = Name()
    monkeypatch.setattr("proxy.discovery.addresses_of", made.resolve)
    monkeypatch.setattr("proxy.discovery._INTERVAL_S", 0.02)
    monkeypatch.setattr("proxy.health._INTERVAL_S", 0.05)
    return made


@asynccontextmanager
async def engine_at(name: Name, number: int, **config: object) -> AsyncIterator[EmulatedEngine]:
    """An engine at one of the addresses."""
    async with engine_of([20], host=f"127.0.0.{number}", port=name.port, base_s=5e-3, **config) as engine:
        yield engine


def there(headway: Headway) -> set[int]:
    """The engines that answer, by the last part of their addresses."""
    engines = headway.status().engines
    return {int(one.url.rsplit(":", 1)[0].rsplit(".", 1)[1]) for one in engines if one.available}


async def test_engines_come_and_go(name: Name) -> None:
    """A new address is learned and used; one that is named no more ends its answers and is forgotten."""
    async with engine_at(name, 1) as first, engine_at(name, 2) as second, aiohttp.ClientSession() as client:
        name.is_now(1)
        async with proxy_before(name.url) as headway:
            assert there(headway) == {1}
            body = {"model": "emulated", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
            async with client.post(headway.url + CHAT, json=body) as response:
                await response.content.readline()
                # Its answer goes on until the test has seen all that happens meanwhile.
                first.inference.loop.set_slowness(100)
                name.is_now(2)
                await eventually(lambda: there(headway) == {2})
                assert len(headway.status().engines) == 2
                received = len(first.received)
                for _ in range(4):
                    assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
                assert len([one for one in second.received if one.path == CHAT]) == 4
                first.inference.loop.set_slowness(1)
                assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
            await eventually(lambda: len(headway.status().engines) == 1)
            assert [one for one in itertools.islice(first.received, received, None) if one.path == CHAT] == []
            assert f'engine="{first.url}"' not in await metrics_text(headway)
            assert f'engine="{second.url}"' in await metrics_text(headway)
            name.is_now(1, 2)
            await eventually(lambda: there(headway) == {1, 2})


async def test_one_that_comes_back_while_it_leaves_stays(name: Name) -> None:
    """An address that is named again before its last answer has ended is used again as it was."""
    async with engine_at(name, 1) as first, engine_at(name, 2), aiohttp.ClientSession() as client:
        name.is_now(1)
        async with proxy_before(name.url) as headway:
            body = {"model": "emulated", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
            async with client.post(headway.url + CHAT, json=body) as response:
                await response.content.readline()
                first.inference.loop.set_slowness(100)
                name.is_now(2)
                await eventually(lambda: there(headway) == {2})
                name.is_now(1)
                await eventually(lambda: 1 in there(headway))
                first.inference.loop.set_slowness(1)
                await response.content.read()
            await eventually(lambda: there(headway) == {1})


async def test_a_name_that_cannot_be_resolved_changes_nothing(
    name: Name, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken resolver leaves the engines as they are, and is said once."""
    async with engine_at(name, 1):
        name.is_now(1)
        async with proxy_before(name.url) as headway:
            name.broken = True
            await eventually(lambda: "cannot be resolved" in caplog.text)
            await asyncio.sleep(0.1)
            assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
    assert caplog.text.count("cannot be resolved") == 1


async def test_without_any_address_requests_are_refused_clearly(name: Name) -> None:
    """A name of nobody: 503 for scheduled and for passed routes, then service once somebody is there."""
    async with proxy_before(name.url, engine_wait_s=0.1) as headway:
        for request in (post(CHAT, chat()), b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"):
            got = await ask_raw(headway, request)
            assert got.status == 503
            error_of(got.body, "engine_unreachable")
        async with engine_at(name, 3):
            name.is_now(3)
            await eventually(lambda: there(headway) == {3})
            assert (await ask_raw(headway, post(CHAT, chat()))).status == 200


async def test_no_request_is_lost_over_changes(name: Name) -> None:
    """Under load, with addresses changing all the time, every request is answered in full."""
    async with engine_at(name, 1), engine_at(name, 2), engine_at(name, 3):
        name.is_now(1)
        async with proxy_before(name.url, engine_wait_s=10.0) as headway:
            statuses: list[int] = []

            async def load() -> None:
                statuses.extend([(await ask_raw(headway, post(CHAT, chat()))).status for _ in range(15)])

            async def change() -> None:
                for numbers in itertools.cycle([(1, 2), (2,), (2, 3), (3, 1), (1,)]):
                    name.is_now(*numbers)
                    await eventually(lambda wanted=set(numbers): there(headway) == wanted)

            changing = asyncio.create_task(change())
            await asyncio.gather(*(load() for _ in range(16)))
            changing.cancel()
            assert statuses == [200] * 240
            assert headway.status().outcomes == {"completed": 240}


async def test_the_systems_resolver() -> None:
    """A name is resolved as the system does; an IPv6 address comes as URLs want it."""
    assert "127.0.0.1" in await addresses_of("127.0.0.1", 80)
    assert await addresses_of("::1", 80) == {"[::1]"}
    with pytest.raises(OSError):
        await addresses_of("no-such-name.invalid", 80)


@pytest.mark.parametrize(
    "url", ["dns+https://engines:8000", "dns+ftp://engines", "dns+http://", "dns+http://e/v1"]
)
def test_names_that_cannot_work_are_refused(url: str) -> None:
    """One clear line for what discovery cannot do."""
    with pytest.raises(SettingsError, match="--engine dns"):
        load_settings({"engine": [url]}, {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADWAY_SERVICE_HOST", "10.0.0.1"),
        ("HEADWAY_SERVICE_PORT", "8000"),
        ("HEADWAY_SERVICE_PORT_HTTP", "8000"),
        ("HEADWAY_PORT", "tcp://10.0.0.1:8000"),
        ("HEADWAY_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("HEADWAY_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("HEADWAY_DEMO_REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("HEADWAY_DEMO_REDIS_PORT_6379_TCP_PROTO", "tcp"),
    ],
)
def test_service_links_are_no_settings(variable: str, value: str) -> None:
    """What Kubernetes sets for Services named headway… is not taken for a setting."""
    assert load_settings({"engine": ["http://e"]}, {variable: value}).port == 8080


@pytest.mark.parametrize(
    ("variable", "value"), [("HEADWAY_PROT", "1"), ("HEADWAY_REDIS_PORT", "6379"), ("HEADWAY_PORT", "x")]
)
def test_other_unknown_variables_are_still_refused(variable: str, value: str) -> None:
    """A misspelt setting is an error, also where it looks a little like a service link."""
    with pytest.raises(SettingsError):
        load_settings({"engine": ["http://e"]}, {variable: value})
