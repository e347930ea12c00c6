"""What has been answered is gone: a proxy that runs for months must not grow by what passed through it."""

import asyncio
import gc
from pathlib import Path

import pytest
from harness import CHAT, chat, engine_of, eventually, proxy_before, session

from proxy.exchange import Exchange
from proxy.scheduling.queued import QueuedRequest

REQUESTS = 400
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("settings", [{}, {"lane_share": 0.1}, {"mode": "engine"}], ids=str)
async def test_requests_that_ended_are_not_kept(tmp_path: Path, settings: dict[str, object]) -> None:
    """After hundreds of requests, streamed and not, answered and abandoned in the queue, hardly one is left."""
    async with (
        engine_of([3], slots=4) as engine,
        proxy_before(engine.url, state=tmp_path, **settings) as headway,
        session() as client,
    ):

        async def ask(place: int) -> None:
            body = chat(model="emulated", stream=bool(place % 2))
            sending = client.post(headway.url + CHAT, data=body, headers=JSON | {"x-headway-ttl": "3600"})
            async with asyncio.timeout(1e-3 if place % 5 == 0 else None), sending as response:
                await response.read()

        # Somebody is always there, so that no queue is dropped as a whole.
        endless = chat(model="emulated", stream=True, ignore_eos=True, max_tokens=1_000_000)
        there = await client.post(headway.url + CHAT, data=endless, headers=JSON)
        for start in range(0, REQUESTS, 40):
            await asyncio.gather(*(ask(place) for place in range(start, start + 40)), return_exceptions=True)
        await eventually(lambda: (headway.status().waiting, headway.status().running) == (0, 1))
        gc.collect()
        kept = [one for one in gc.get_objects() if isinstance(one, (QueuedRequest, Exchange))]
        assert len(kept) < REQUESTS / 4
        there.close()
