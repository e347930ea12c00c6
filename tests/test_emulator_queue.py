"""The emulated engine's queue and slots: who goes first, who frees a place, and when no more may come."""

import asyncio
from typing import Any

import pytest
from emulation import CHAT, emulated, events, exactly, metrics, post, quick_profile, until

from training.emulator import EmulatedEngine
from training.engine import SchedulingPolicy


async def finish_order(
    engine: EmulatedEngine, requests: list[tuple[dict[str, Any], dict[str, str]]]
) -> list[int]:
    """Send one request to fill the only slot, then the others one by one; the order in which those end."""
    done: list[int] = []

    async def one(number: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        await post(engine, CHAT, body, **headers)
        done.append(number)

    model = engine.inference.model
    # The first holds the slot until all the others have come.
    engine.inference.loop.set_slowness(100)
    tasks = [asyncio.create_task(one(-1, exactly(150), {}))]
    await until(lambda: model.num_running == 1)
    for number, (body, headers) in enumerate(requests):
        tasks.append(asyncio.create_task(one(number, body, headers)))
        await until(lambda: model.num_waiting == len(tasks) - 1)
    engine.inference.loop.set_slowness(1)
    await asyncio.gather(*tasks)
    return done[1:]


async def test_the_priority_of_body_and_header_orders_the_queue() -> None:
    """Lower first; the header beats the body; text as a number is a number; a header of text is passed over."""
    requests: list[tuple[dict[str, Any], dict[str, str]]] = [
        (exactly(2, priority=5), {}),
        (exactly(2, priority=9), {"X-Vllm-Priority": "-7"}),
        (exactly(2, priority="3"), {}),
        (exactly(2, priority=4), {"X-Vllm-Priority": "urgent"}),
    ]
    async with emulated(profile=quick_profile(max_num_seqs=1)) as engine:
        assert await finish_order(engine, requests) == [1, 2, 3, 0]


async def test_an_fcfs_engine_ignores_priorities_silently() -> None:
    """Status 200, order of arrival: what a proxy has to notice by itself."""
    requests: list[tuple[dict[str, Any], dict[str, str]]] = [(exactly(2, priority=p), {}) for p in (5, 3, 1)]
    async with emulated(
        profile=quick_profile(max_num_seqs=1), scheduling_policy=SchedulingPolicy.FCFS
    ) as engine:
        assert await finish_order(engine, requests) == [0, 1, 2]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_frees_its_slot(stream: bool) -> None:
    """Closing the connection aborts, waiting or running, and counts as an abort."""
    async with emulated(profile=quick_profile(max_num_seqs=1)) as engine:
        model = engine.inference.model
        ask = events if stream else post
        tasks = [asyncio.create_task(ask(engine, CHAT, exactly(3000))) for _ in range(2)]
        await until(lambda: (model.num_running, model.num_waiting) == (1, 1))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: (model.num_running, model.num_waiting) == (0, 0))
        assert metrics(engine)["vllm:request_success_total", "abort"] == 2
        assert model.counters.generation_tokens < 3000


@pytest.mark.parametrize("stream", [True, False])
async def test_a_full_queue_is_a_503(stream: bool) -> None:
    """`max_num_queued_reqs` counts waiting and running; all sequences of a request come in, or none."""
    async with emulated(profile=quick_profile(max_num_seqs=1), max_num_queued_reqs=3) as engine:
        model = engine.inference.model
        engine.inference.loop.set_slowness(100)
        busy = asyncio.create_task(post(engine, CHAT, exactly(200)))
        await until(lambda: model.num_running == 1)
        status, body = await post(engine, CHAT, exactly(2, n=3, stream=stream))
        assert (status, body["error"]["code"], body["error"]["type"]) == (503, 503, "Service Unavailable")
        assert (model.num_running, model.num_waiting) == (1, 0)
        engine.inference.loop.set_slowness(1)
        assert (await post(engine, CHAT, exactly(2, n=2)))[0] == 200
        await busy


async def test_four_hundred_streams_at_once() -> None:
    """Every stream gets every token, and exactly one end."""
    async with emulated(profile=quick_profile(max_num_seqs=400, num_blocks=10_000)) as engine:
        found = await asyncio.gather(*(events(engine, CHAT, exactly(20)) for _ in range(400)))
        assert all(len(stream) == 22 and stream[-1][1] == "[DONE]" for stream in found)
