"""Fixtures that every test can use, and the event loop that serves in production."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
import uvloop
from harness import engine_of, proxy_before, session
from hypothesis import settings

from proxy.app import Headway
from training.emulator import EmulatedEngine

# A busy machine is no reason to fail: no test measures time.
settings.register_profile("headway", deadline=None)
settings.load_profile("headway")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], uvloop.Loop]]:
    """Tests run on the loop that `headway serve` runs on."""
    return {"uvloop": uvloop.new_event_loop}


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
