"""Who can be sent to: an engine that loses an answer gets nothing more until it has said that it is there."""

import asyncio

import pytest
from harness import CHAT, ask_raw, chat, error_of, eventually, idle, outcomes, post, proxy_before
from scripted_engine import JSON, Call, ScriptedEngine, chunk, reply, stream_head

ANSWER = reply(b'{"choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":1}}', JSON)
SLOTS = 4
CROWD = 20


@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "in mid-answer"])
async def test_a_dying_engine_costs_nobody_who_waits(begun: bool) -> None:
    """It breaks all that runs and would break all that came next: who waits is kept for its next life."""
    dies, dead = asyncio.Event(), True

    async def script(call: Call) -> None:
        if not dead:
            await call.send(ANSWER)
            return
        if begun:
            await call.send(stream_head() + chunk(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'))
        await dies.wait()
        call.reset()

    async with (
        ScriptedEngine(script) as engine,
        proxy_before(engine.url, mode="hold", window=SLOTS, engine_kind="vllm") as headway,
    ):
        crowd = [asyncio.create_task(ask_raw(headway, post(CHAT, chat()))) for _ in range(CROWD)]
        await eventually(lambda: len(engine.calls) == SLOTS and headway.status().waiting == CROWD - SLOTS)
        engine.healthy = False
        dies.set()
        await eventually(lambda: headway.status().running == 0)
        assert (len(engine.calls), headway.status().waiting) == (SLOTS, CROWD - SLOTS)
        dead, engine.healthy = False, True
        answers = await asyncio.gather(*crowd)
        await idle(headway)
        assert await outcomes(headway) == {"engine_lost": SLOTS, "completed": CROWD - SLOTS}
    assert sum(answer.status == 200 and answer.complete for answer in answers) == CROWD - SLOTS


async def test_one_lost_answer_does_not_take_a_healthy_engine_for_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A single broken connection: the engine is asked, goes on at once, and keeps the window that it had."""

    async def script(call: Call) -> None:
        if b"break" in call.body:
            call.reset()
        else:
            await call.send(ANSWER)

    async with ScriptedEngine(script) as engine, proxy_before(engine.url, engine_kind="vllm") as headway:
        (before,) = headway.status().engines
        for _ in range(5):
            broken = await ask_raw(headway, post(CHAT, chat("break")))
            assert broken.status == 502
            error_of(broken.body, "engine_lost")
            assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
        await idle(headway)
        assert await outcomes(headway) == {"engine_lost": 5, "completed": 5}
        (after,) = headway.status().engines
        assert after.window_reason == before.window_reason
    assert not [record for record in caplog.records if "is gone" in record.message]
