"""Fixtures that every test can use, and the event loop that serves in production."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import harness
import pytest
import uvloop
from aiohttp import web
from harness import engine_of, proxy_before, serving_app, session
from hypothesis import settings
from otlp_collector import Collector

from headway import main
from proxy.app import Headway
from training.emulator import EmulatedEngine

# A busy machine is no reason to fail: no test measures time.
settings.register_profile("headway", deadline=None)
settings.load_profile("headway")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests that use the harness run on the loop that `headway serve` runs on, all others on asyncio's own."""
    module = vars(getattr(item, "module", object))
    proxied = any(getattr(thing, "__module__", "") == harness.__name__ for thing in module.values())
    return {"uvloop": uvloop.new_event_loop} if proxied else {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A `headway` command: its exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return call


@pytest.fixture
async def engine() -> AsyncIterator[EmulatedEngine]:
    """An emulated engine with many slots, a millisecond per token and answers of five tokens."""
    async with engine_of() as started:
        yield started


@pytest.fixture
async def headway(engine: EmulatedEngine, tmp_path: Path) -> AsyncIterator[Headway]:
    """A proxy before that engine, which writes its traffic log under `tmp_path`."""
    async with proxy_before(engine.url, state=tmp_path) as started:
        yield started


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client without limits."""
    async with session() as opened:
        yield opened


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector, and no settings of the SDK but a test's own."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started = Collector()
    async with serving_app(web.post("/v1/traces", started.take)) as started.url:
        yield started
