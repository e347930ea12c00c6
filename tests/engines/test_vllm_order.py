"""On the real vLLM: short goes first, a lost client frees its slot, an engine that ignores us is noticed."""

import asyncio
import random
from pathlib import Path

import aiohttp
import pytest
from crowd import SLOTS, chat, first_bytes, headway_before

from predictor.traffic_store import read_records
from proxy.order_watch import Verdict
from training.local_engines import RunningEngine

pytestmark = pytest.mark.engines

BLOCKERS = SLOTS
CROWD = 8


async def running(engine: RunningEngine) -> float:
    """How many sequences the engine says it runs."""
    async with aiohttp.ClientSession() as session, session.get(f"{engine.base_url}/metrics") as response:
        text = await response.text()
    lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
    return sum(float(line.rsplit(" ", 1)[-1]) for line in lines)


@pytest.mark.parametrize("mode", ["engine", "hybrid", "hold"])
async def test_short_answers_begin_before_long_ones(vllm: RunningEngine, tmp_path: Path, mode: str) -> None:
    """With all slots taken, every request thought to be short begins before every one thought to be long."""
    blockers = [chat(vllm, 0.0, 48)] * BLOCKERS
    crowd = [chat(vllm, quantile, 8) for quantile in [0.9, 0.1] * (CROWD // 2)]
    async with headway_before(vllm, tmp_path, mode=mode, window=SLOTS) as headway:
        began = (await first_bytes(headway.url, blockers + crowd))[BLOCKERS:]
    long, short = began[0::2], began[1::2]
    assert max(short) <= min(long)


async def test_a_client_that_goes_away_frees_its_slot(vllm: RunningEngine, tmp_path: Path) -> None:
    """Closing the client's connection aborts the request in the engine; the proxy counts it once."""
    async with headway_before(vllm, tmp_path) as headway, aiohttp.ClientSession() as session:
        body = chat(vllm, 0.5, 3000)
        response = await session.post(f"{headway.url}/v1/chat/completions", json=body)
        await response.content.readany()
        response.close()
        async with asyncio.timeout(20):
            while await running(vllm):
                await asyncio.sleep(0.1)
        assert headway.status().running == 0
        assert headway.status().outcomes == {"client_gone": 1}


@pytest.mark.parametrize(("name", "verdict"), [("vllm", Verdict.HONOURED), ("vllm_fcfs", Verdict.IGNORED)])
async def test_the_engines_order_is_found_out(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, verdict: Verdict
) -> None:
    """From ordinary traffic alone the proxy learns whether the engine honours priorities, and logs the rest."""
    engine: RunningEngine = request.getfixturevalue(name)
    rng = random.Random(1)
    bodies = [chat(engine, rng.random(), rng.randrange(8, 20)) for _ in range(48)]
    async with headway_before(engine, tmp_path, mode="engine") as headway:
        await first_bytes(headway.url, bodies)
        (status,) = headway.status().engines
    assert status.priority == verdict.value, status
    records = list(read_records(tmp_path / "traffic.db"))
    assert [record.output_tokens for record in records] == [body["max_tokens"] for body in bodies]
    assert all(record.ttft_s and record.e2e_s and record.ttft_s <= record.e2e_s for record in records)
