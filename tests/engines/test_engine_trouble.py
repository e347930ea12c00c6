"""On real engines: a full queue is waited out, and an engine that dies under load costs nobody a second end."""

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from crowd import SLOTS, chat, headway_before, on
from real_engines import QUEUE, EngineUnderTest

pytestmark = pytest.mark.engines

BURST = 24
CHAT = "/v1/chat/completions"


async def end_of(session: aiohttp.ClientSession, url: str, body: object) -> str:
    """How an answer ended, as its client sees it."""
    try:
        async with session.post(url + CHAT, json=body) as response:
            text = await response.text()
            if response.status != 200:
                return f"{response.status} {(await response.json())['error']['code']}"
            return "whole" if "[DONE]" in text or '"usage"' in text else "half"
    except aiohttp.ClientPayloadError:
        return "cut"


async def rejections(real: EngineUnderTest) -> float:
    """How many requests vLLM says it has refused for its queue's length."""
    async with aiohttp.ClientSession() as session, session.get(f"{real.base_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    counted = [line for line in lines if line.startswith("vllm:") and "max_num_queued_reqs" in line]
    return sum(float(line.rsplit(" ", 1)[-1]) for line in counted if "_created" not in line)


@pytest.mark.parametrize("mode", ["engine", "hybrid"])
@on("vllm-short-queue", "sglang-plain")
async def test_a_full_queue_is_waited_out(real: EngineUnderTest, tmp_path: Path, mode: str) -> None:
    """A burst of four times what the engine takes: it refuses, its window shrinks, nobody is refused by us."""
    bodies = [chat(real, place / BURST, 12, stream=place % 2 == 0) for place in range(BURST)]
    before = await rejections(real)
    async with (
        headway_before(real, tmp_path, mode=mode, window=64) as headway,
        aiohttp.ClientSession() as session,
    ):
        ends = await asyncio.gather(*(end_of(session, headway.url, body) for body in bodies))
        assert headway.status().outcomes == {"completed": BURST}
        (status,) = headway.status().engines
    assert ends == ["whole"] * BURST
    most = QUEUE if real.kind == "vllm" else QUEUE + SLOTS
    assert status.window is not None and status.window <= most + 2
    assert status.window_reason.startswith("at the engine's own limit")
    if real.kind == "vllm":
        assert await rejections(real) > before


@on("vllm-short-queue")
async def test_an_engine_killed_under_load_costs_each_request_one_end(
    real: EngineUnderTest, tmp_path: Path
) -> None:
    """kill -9 in the midst of streams: those are cut with an error, whoever waits is served by the next life."""
    bodies = [chat(real, place / BURST, 96, stream=place % 3 != 0) for place in range(BURST)]
    async with (
        headway_before(real, tmp_path, engine_wait_s=300.0, window=SLOTS) as headway,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=400)) as session,
    ):
        asked = [asyncio.ensure_future(end_of(session, headway.url, body)) for body in bodies]
        async with asyncio.timeout(60):
            while headway.status().running < SLOTS:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(real.kill)
        await asyncio.to_thread(real.start_again)
        ends = Counter(await asyncio.gather(*asked))
        assert set(ends) <= {"whole", "cut", "502 engine_lost"}
        assert BURST - SLOTS <= ends["whole"] < BURST
        assert await end_of(session, headway.url, chat(real, 0.5, 3)) == "whole"
        status = headway.status()
    assert (status.waiting, status.running) == (0, 0)
    assert status.outcomes == {"completed": ends["whole"] + 1, "engine_lost": BURST - ends["whole"]}
