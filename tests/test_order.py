"""Short first, bounded: who is answered before whom, in every mode and under every policy, through the proxy."""

import asyncio
from typing import Any

import pytest
from harness import CHAT, ask_raw, bare, chat, engine_of, eventually, idle, post, proxy_before

from proxy.app import Headway
from proxy.class_settings import ClassSettings
from proxy.order import endless_waits
from proxy.settings import Settings
from training.emulator import EmulatedEngine
from training.engine import SchedulingPolicy

# What the ranker of these tests believes; the engine answers each with two tokens.
SIZES = (900, 100, 500, 10)
BLOCKER = chat(stream=True, max_tokens=1000, min_tokens=1000)


async def order_of_answers(engine: EmulatedEngine, headway: Headway) -> list[int]:
    """Behind a request that holds the only slot, send requests of these sizes; returns who came when."""
    done: list[int] = []

    async def ask(size: int) -> None:
        assert (await ask_raw(headway, post(CHAT, chat(max_tokens=size)))).status == 200
        done.append(size)

    blocker = asyncio.create_task(ask_raw(headway, post(CHAT, BLOCKER)))
    await eventually(lambda: engine.inference.model.num_running == 1)
    asked = []
    for number, size in enumerate(SIZES, 2):
        asked.append(asyncio.create_task(ask(size)))
        await eventually(lambda: headway.status().waiting + headway.status().running == number)  # noqa: B023
    at_engine = min(len(SIZES) + 1, headway.status().running)
    await eventually(lambda: len(engine.received) == at_engine)
    blocker.cancel()
    await asyncio.gather(*asked)
    await idle(headway)
    return done


def slow_engine(**config: Any) -> EmulatedEngine:
    """One slot, answers of two tokens, ten milliseconds each: enough to see who came first."""
    return engine_of([2], slots=1, base_s=0.01, **config)


STRICT = ClassSettings(name="night", tier=1, min_share=0.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"policy": "sjf"}, ["policy sjf has no bound"]),
        (
            {"classes": (ClassSettings(name="standard", policy="sjf"),)},
            ["class 'standard': sjf has no bound"],
        ),
        ({"classes": (ClassSettings(name="standard"), STRICT)}, ["class 'night' has min_share 0"]),
        ({"classes": (ClassSettings(name="standard", min_share=0.0),)}, []),
        ({"classes": (ClassSettings(name="standard"), ClassSettings(name="night", tier=1))}, []),
        ({}, []),
    ],
)
def test_what_may_wait_without_end_is_said(settings: dict[str, Any], said: list[str]) -> None:
    """An unbounded policy, a lower tier without a share; nothing is said of what has a bound."""
    lines = endless_waits(Settings(engine=("http://a:1",), **settings))
    assert len(lines) == len(said)
    assert all(line.startswith(words) for line, words in zip(lines, said, strict=True))


@pytest.mark.parametrize("mode", ["engine", "hold", "hybrid"])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"policy": "fcfs"}, [900, 100, 500, 10]),
        ({"policy": "quantile"}, [10, 100, 500, 900]),
        ({"policy": "quantile", "max_overtake": 0.0}, [900, 100, 500, 10]),
    ],
    ids=["fcfs", "quantile", "quantile with D = 0"],
)
async def test_answers_come_in_the_promised_order(
    mode: str, settings: dict[str, Any], expected: list[int]
) -> None:
    """Whoever orders, the engine or the proxy, the order is the policy's."""
    async with slow_engine() as engine, proxy_before(engine.url, mode=mode, window=1, **settings) as headway:
        assert await order_of_answers(engine, headway) == expected


@pytest.mark.parametrize("mode", ["hold", "hybrid"])
async def test_shortest_first_where_the_proxy_orders(mode: str) -> None:
    """`sjf`, without a bound, in the modes that it goes with."""
    async with (
        slow_engine() as engine,
        proxy_before(engine.url, mode=mode, window=1, policy="sjf") as headway,
    ):
        assert await order_of_answers(engine, headway) == [10, 100, 500, 900]


async def test_the_proxy_orders_where_the_engine_does_not() -> None:
    """An engine that serves first come, first served is put in order by holding."""
    async with (
        slow_engine(policy=SchedulingPolicy.FCFS) as engine,
        proxy_before(engine.url, mode="hold", window=1) as headway,
    ):
        assert await order_of_answers(engine, headway) == [10, 100, 500, 900]


async def test_engine_mode_needs_an_engine_that_orders() -> None:
    """Without holding, an engine that ignores priorities gives its own order: that is why it is watched."""
    async with (
        slow_engine(policy=SchedulingPolicy.FCFS) as engine,
        proxy_before(engine.url, mode="engine") as headway,
    ):
        assert await order_of_answers(engine, headway) == [900, 100, 500, 10]


async def test_the_oldest_first_lane_serves_the_oldest() -> None:
    """With the whole lane every dispatch goes to whoever waits longest, whatever was predicted."""
    settings = {"mode": "hold", "window": 1, "lane_share": 1.0}
    async with slow_engine() as engine, proxy_before(engine.url, **settings) as headway:
        assert await order_of_answers(engine, headway) == [900, 100, 500, 10]


async def test_without_a_queue_nothing_is_held() -> None:
    """While there is room each request goes straight to the engine."""
    async with engine_of([2], slots=8) as engine, proxy_before(engine.url, mode="hold", window=8) as headway:
        engine.inference.loop.set_slowness(1000)
        asked = [asyncio.create_task(ask_raw(headway, post(CHAT, chat()))) for _ in range(8)]
        await eventually(lambda: len(engine.received) == 8)
        assert (headway.status().waiting, headway.status().running) == (0, 8)
        engine.inference.loop.set_slowness(1)
        for answer in await asyncio.gather(*asked):
            assert answer.status == 200
            assert float(answer.header("x-headway-queue-ms") or "nan") >= 0


@pytest.mark.parametrize(
    ("policy", "verdict"), [(SchedulingPolicy.PRIORITY, "honoured"), (SchedulingPolicy.FCFS, "ignored")]
)
async def test_an_engine_that_ignores_priorities_is_noticed(
    policy: SchedulingPolicy, verdict: str, caplog: pytest.LogCaptureFixture
) -> None:
    """From ordinary traffic alone the proxy learns whether the engine honours its priorities, and says so."""
    async with (
        engine_of([4], slots=2, base_s=0.005, policy=policy) as engine,
        proxy_before(engine.url, mode="engine") as headway,
    ):
        # The engine's best time to first token, then a queue of long and short in turn.
        await ask_raw(headway, post(CHAT, chat(stream=True)))
        bodies = [chat(stream=True, max_tokens=size) for size in [900, 10] * 30]
        await asyncio.gather(*(ask_raw(headway, post(CHAT, body)) for body in bodies))
        await idle(headway)
        found = headway.status().engines[0]
        assert found.priority == verdict
        assert found.pairs >= 30
        metrics = await ask_raw(headway, bare("GET", "/metrics"))
        assert b"headway_priority_honoured" in metrics.body
    assert verdict in caplog.text or verdict == "honoured"
