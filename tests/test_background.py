"""What runs in the background as long as the proxy does: none of it dies unheard."""

import asyncio

import pytest
from harness import engine_of, eventually, proxy_before

from proxy.background import in_background
from proxy.dispatcher import Dispatcher


async def test_a_part_that_dies_is_heard(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy one of whose parts raises says which one, why, and where."""

    async def run(_: Dispatcher) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Dispatcher, "run", run)
    async with engine_of() as engine, proxy_before(engine.url):
        await eventually(lambda: "out of luck" in caplog.text)
    (record,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert "test_a_part_that_dies_is_heard.<locals>.run" in record.getMessage()
    assert record.exc_info is not None


async def test_the_end_of_a_part_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """One that is cancelled, as at every stop, or that has nothing left to do, is not complained of."""
    cancelled, ended = in_background(asyncio.sleep(3600)), in_background(asyncio.sleep(0))
    await ended
    cancelled.cancel()
    await asyncio.wait({cancelled})
    await asyncio.sleep(0)
    assert not caplog.records
