"""On real engines: short goes first, a lost client frees its slot, an engine that ignores us is noticed."""

import asyncio
import json
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from crowd import SLOTS, chat, first_bytes, headway_before, on
from real_engines import EngineUnderTest

from predictor.traffic_store import read_records
from proxy.identity import KeySettings
from proxy.order_watch import Verdict

pytestmark = pytest.mark.engines

BLOCKERS = SLOTS
CROWD = 8
_RUNNING = {"vllm": "vllm:num_requests_running", "sglang": "sglang:num_running_reqs"}


async def running(real: EngineUnderTest) -> float:
    """How many sequences the engine says it runs."""
    async with aiohttp.ClientSession() as session, session.get(f"{real.base_url}/metrics") as response:
        text = await response.text()
    lines = [line for line in text.splitlines() if line.startswith(_RUNNING[real.kind])]
    return max(float(line.rsplit(" ", 1)[-1]) for line in lines)


@pytest.mark.parametrize("mode", ["engine", "hybrid", "hold"])
@on("vllm", "sglang", "sglang-plain")
async def test_short_answers_begin_before_long_ones(real: EngineUnderTest, tmp_path: Path, mode: str) -> None:
    """With all slots taken, every request thought to be short begins before every one thought to be long."""
    await short_before_long(real, tmp_path, mode)


@pytest.mark.parametrize("mode", ["hybrid", "hold"])
@on("vllm-fcfs")
async def test_the_proxy_holds_before_an_engine_without_priorities(
    real: EngineUnderTest, tmp_path: Path, mode: str
) -> None:
    """The same order where vLLM itself is first come, first served: then nothing waits in the engine."""
    await short_before_long(real, tmp_path, mode)


async def short_before_long(real: EngineUnderTest, tmp_path: Path, mode: str) -> None:
    """Take all slots, then send short and long ones in turn."""
    blockers = [chat(real, 0.0, 48)] * BLOCKERS
    crowd = [chat(real, quantile, 8) for quantile in [0.9, 0.1] * (CROWD // 2)]
    async with headway_before(real, tmp_path, mode=mode, window=SLOTS) as headway:
        began = (await first_bytes(headway.url, blockers + crowd))[BLOCKERS:]
    long, short = began[0::2], began[1::2]
    assert max(short) <= min(long)


@on("sglang")
async def test_a_better_tier_goes_first_inside_the_engine(real: EngineUnderTest, tmp_path: Path) -> None:
    """With everything sent at once, SGLang's own queue orders by the priority that each tier is given."""
    blockers = [chat(real, 0.5, 48)] * BLOCKERS
    classes = ["batch", "standard"] * (CROWD // 2)
    crowd = [chat(real, 0.5, 8) for _ in classes]
    async with headway_before(real, tmp_path, window=64, trust_headers=True) as headway:
        names = ["standard"] * BLOCKERS + classes
        began = (await first_bytes(headway.url, blockers + crowd, classes=names))[BLOCKERS:]
    assert max(began[1::2]) <= min(began[0::2])


@on("sglang")
async def test_nobody_who_runs_is_stopped_for_somebody_better(real: EngineUnderTest, tmp_path: Path) -> None:
    """With --disable-priority-preemption even a client's own far better priority waits for a slot."""
    key = KeySettings(sha256=sha256(b"key").hexdigest(), tenant="t", may_set_priority=True)
    generate = {"sampling_params": {"max_new_tokens": 60, "ignore_eos": True}, "priority": 900}
    async with (
        headway_before(real, tmp_path, window=64, keys=(key,)) as headway,
        aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as session,
    ):

        async def one(text: str, priority: int) -> Any:
            body = {"text": text, **generate, "priority": priority}
            async with session.post(f"{headway.url}/generate", json=body) as response:
                assert response.status == 200, await response.text()
                return (await response.json())["meta_info"]

        blockers = [asyncio.ensure_future(one(f"{place} story", 900)) for place in range(BLOCKERS)]
        await asyncio.sleep(1.0)
        await one("better", -900)
        metas = await asyncio.gather(*blockers)
    assert [meta["num_retractions"] for meta in metas] == [0] * BLOCKERS
    assert [meta["completion_tokens"] for meta in metas] == [60] * BLOCKERS


@pytest.mark.parametrize("stream", [True, False])
@on("vllm", "sglang")
async def test_a_client_that_goes_away_frees_its_slot(
    real: EngineUnderTest, tmp_path: Path, stream: bool
) -> None:
    """Closing the client's connection aborts the request in the engine; the proxy counts it once."""
    async with headway_before(real, tmp_path) as headway, aiohttp.ClientSession() as session:
        body = chat(real, 0.5, 3000, stream=stream)
        asked = asyncio.ensure_future(session.post(f"{headway.url}/v1/chat/completions", json=body))
        async with asyncio.timeout(20):
            while not await running(real):
                await asyncio.sleep(0.1)
        if stream:
            (await asked).close()
        else:
            asked.cancel()
        async with asyncio.timeout(20):
            while await running(real):
                await asyncio.sleep(0.1)
        assert headway.status().running == 0
        assert headway.status().outcomes == {"client_gone": 1}


@pytest.mark.parametrize(
    ("real", "verdict"),
    [("vllm", Verdict.HONOURED), ("vllm-fcfs", Verdict.IGNORED)],
    indirect=["real"],
    scope="session",
)
async def test_the_engines_order_is_found_out(
    real: EngineUnderTest, tmp_path: Path, verdict: Verdict
) -> None:
    """From ordinary traffic alone the proxy learns whether the engine honours priorities, and logs the rest."""
    rng = random.Random(1)
    bodies = [chat(real, rng.random(), rng.randrange(8, 20)) for _ in range(48)]
    async with headway_before(real, tmp_path, mode="engine") as headway:
        await first_bytes(headway.url, bodies)
        (status,) = headway.status().engines
    assert status.priority == verdict.value, status
    records = list(read_records(tmp_path / "traffic.db"))
    assert [record.output_tokens for record in records] == [body["max_tokens"] for body in bodies]
    assert all(record.ttft_s and record.e2e_s and record.ttft_s <= record.e2e_s for record in records)


@on("sglang-plain")
async def test_an_engine_without_priorities_is_sent_none(real: EngineUnderTest, tmp_path: Path) -> None:
    """SGLang could refuse them (--abort-on-priority-when-disabled); that the proxy orders is said at the start."""
    from recording_relay import RecordingRelay

    async with (
        RecordingRelay("127.0.0.1", real.port) as relay,
        headway_before(real, tmp_path, url=relay.url, mode="engine") as headway,
    ):
        await first_bytes(headway.url, [chat(real, 0.5, 2)])
        assert headway.status().engines[0].window is not None
    sent = [json.loads(one.request.body) for one in relay.exchanges_of("/v1/chat/completions")]
    assert sent and all("priority" not in body for body in sent)
