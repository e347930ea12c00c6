"""On real engines: short goes first, a lost client frees its slot, an engine that ignores us is noticed."""

import asyncio
import json
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from crowd import (
    CHAT,
    SLOTS,
    all_have_arrived,
    all_slots_taken,
    chat,
    client,
    eventually,
    headway_before,
    load_of,
    on,
    order_of_beginning,
    send,
)
from real_engines import EngineUnderTest

from predictor.records import Outcome
from predictor.traffic_store import read_records
from proxy.app import Headway
from proxy.identity import KeySettings
from proxy.order_watch import Verdict

pytestmark = pytest.mark.engines

CROWD = 8


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
    """Long and short ones in turn, which all wait before the first may begin."""
    crowd = [chat(real, quantile, 8) for quantile in [0.9, 0.1] * (CROWD // 2)]
    async with headway_before(real, tmp_path, mode=mode, window=SLOTS) as headway:
        began = await order_of_beginning(real, headway, crowd)
    assert {place % 2 for place in began[: CROWD // 2]} == {1}, began


@on("sglang")
async def test_a_better_tier_goes_first_inside_the_engine(real: EngineUnderTest, tmp_path: Path) -> None:
    """With everything sent at once, SGLang's own queue orders by the priority that each tier is given."""
    classes = ["batch", "standard"] * (CROWD // 2)
    crowd = [chat(real, 0.5, 8) for _ in classes]
    async with headway_before(real, tmp_path, window=64, trust_headers=True) as headway:
        began = await order_of_beginning(real, headway, crowd, classes)
    assert {place % 2 for place in began[: CROWD // 2]} == {1}, began


@on("sglang")
async def test_nobody_who_runs_is_stopped_for_somebody_better(real: EngineUnderTest, tmp_path: Path) -> None:
    """With --disable-priority-preemption even a client's own far better priority waits for a slot."""
    key = KeySettings(sha256=sha256(b"key").hexdigest(), tenant="t", may_set_priority=True)
    async with (
        headway_before(real, tmp_path, window=64, keys=(key,)) as headway,
        aiohttp.ClientSession(headers={"Authorization": "Bearer key"}) as session,
    ):

        async def one(text: str, tokens: int, priority: int) -> Any:
            sampling = {"max_new_tokens": tokens, "ignore_eos": True}
            body = {"text": text, "sampling_params": sampling, "priority": priority}
            async with session.post(f"{headway.url}/generate", json=body) as response:
                assert response.status == 200, await response.text()
                return (await response.json())["meta_info"]

        blockers = [asyncio.ensure_future(one(f"{place} story", 240, 900)) for place in range(SLOTS)]
        await all_have_arrived(real, headway, SLOTS)
        better = asyncio.ensure_future(one("better", 8, -900))
        await all_have_arrived(real, headway, SLOTS + 1)
        assert not any(blocker.done() for blocker in blockers)
        metas = await asyncio.gather(better, *blockers)
    assert [meta["num_retractions"] for meta in metas] == [0] * (1 + SLOTS)
    assert [meta["completion_tokens"] for meta in metas] == [8] + [240] * SLOTS


@pytest.mark.parametrize("stream", [True, False])
@on("vllm", "sglang")
async def test_a_client_that_goes_away_frees_its_slot(
    real: EngineUnderTest, tmp_path: Path, stream: bool
) -> None:
    """Closing the client's connection aborts the request in the engine; the proxy counts it once."""
    async with headway_before(real, tmp_path) as headway, client() as session:
        body = chat(real, 0.5, 3000, stream=stream)
        asked = asyncio.ensure_future(session.post(headway.url + CHAT, json=body))
        await eventually(lambda: runs(real, 1))
        if stream:
            (await asked).close()
        else:
            asked.cancel()
        await eventually(lambda: runs(real, 0))
        await eventually(lambda: headway.status().outcomes == {"client_gone": 1})
        assert headway.status().running == 0


async def runs(real: EngineUnderTest, count: int) -> bool:
    """Whether the engine runs so many, and none waits."""
    return await load_of(real) == (count, 0)


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
        async with client() as session:
            async with all_slots_taken(real, headway, session):
                answers = [await one_more(session, headway, body) for body in bodies]
                await all_have_arrived(real, headway, SLOTS + len(bodies))
            for answer in answers:
                await answer
        (status,) = headway.status().engines
    assert status.priority == verdict.value, status
    whole = [one for one in read_records(tmp_path / "traffic.db") if one.outcome is Outcome.COMPLETED]
    assert [record.output_tokens for record in whole] == [body["max_tokens"] for body in bodies]
    assert all(record.ttft_s and record.e2e_s and record.ttft_s <= record.e2e_s for record in whole)


async def one_more(
    session: aiohttp.ClientSession, headway: Headway, body: dict[str, Any]
) -> asyncio.Future[list[None]]:
    """Send one that the proxy sends on at once, and let it reach the engine before the next."""
    before = headway.status().running
    answer = send(session, headway, [body])
    await eventually(lambda: headway.status().running == before + 1)
    return answer


@on("sglang-plain")
async def test_an_engine_without_priorities_is_sent_none(real: EngineUnderTest, tmp_path: Path) -> None:
    """SGLang could refuse them (--abort-on-priority-when-disabled); that the proxy orders is said at the start."""
    from recording_relay import RecordingRelay

    async with (
        RecordingRelay("127.0.0.1", real.port) as relay,
        headway_before(real, tmp_path, url=relay.url, mode="engine") as headway,
    ):
        async with client() as session:
            await send(session, headway, [chat(real, 0.5, 2)])
        assert headway.status().engines[0].window is not None
    sent = [json.loads(one.request.body) for one in relay.exchanges_of("/v1/chat/completions")]
    assert sent and all("priority" not in body for body in sent)
