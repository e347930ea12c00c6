"""What Headway costs a full engine, by the clock and by the engine's own count of its steps."""

import pytest
from aiohttp import web
from harness import eventually, serving_app

from training.compare.client import Timing
from training.loop.saturation import HEADWAY, Full, compared, order_of, tokens_per_s
from training.loop.steps import StepWatch
from training.loop.workload import alike

COUNTED = [
    'vllm:iteration_tokens_total_count{engine="0"} 30.0\nvllm:generation_tokens_total{engine="0"} 300.0\n',
    'vllm:iteration_tokens_total_count{engine="0"} 130.0\nvllm:generation_tokens_total{engine="0"} 1900.0\n',
    "vllm:num_requests_running 0.0\n",
    "vllm:num_requests_running 0.0\n",
]


def test_no_order_of_what_fills_the_engine_is_easier_than_another() -> None:
    """Prompts of about one length, of the measuring half; more of them than there are alike come again."""
    alike_ones = alike("measure", 96)
    sizes = [sum(len(message.content) for message in one.messages) for one in alike_ones]
    assert max(sizes) < 1.5 * min(sizes)
    assert len({one.id for one in alike_ones}) == 96
    assert {one.split for one in alike_ones} == {"measure"}
    assert len(alike("measure", 5_000)) == 5_000


def test_a_full_engine_is_measured_while_it_is_full() -> None:
    """Two slots, answers of 10 tokens a second each: 20 tokens/s, whatever the way in and out are like."""
    timings = [
        Timing(
            f"p{n}",
            max(0.0, n // 2 - 1.0),
            1.0 if n > 1 else 0.0,
            2.0 if n > 1 else 1.0,
            10,
            "length",
            ok=True,
        )
        for n in range(20)
    ]
    assert tokens_per_s(timings, 2) == pytest.approx(20.0)


def test_what_slows_both_alike_costs_headway_nothing() -> None:
    """Pairs that lie side by side are compared, so an engine that gets slower and slower does not count."""
    ours = [0.99 if arm == HEADWAY else 1.0 for arm in order_of(4)]
    found = compared([Full(100.0 / (1 + n // 2) * one, None) for n, one in enumerate(ours)])
    assert found.ratio == pytest.approx(0.99)
    assert found.between == pytest.approx((0.99, 0.99))
    assert (found.steps, found.steps_ratio) == ((), None)


def test_slots_left_empty_show_whatever_the_pace() -> None:
    """An engine that counts its steps tells how full they were, though its pace jumps from pass to pass."""
    passes = [
        Full(100.0 + 30 * (n % 3), 15.8 if arm == HEADWAY else 16.0) for n, arm in enumerate(order_of(4))
    ]
    found = compared(passes)
    assert found.steps_ratio == pytest.approx(15.8 / 16)
    assert found.steps_between == pytest.approx((15.8 / 16, 15.8 / 16))


async def test_an_engine_s_count_of_steps_is_read_between_two_answers() -> None:
    """From one answer to a later one; an engine that has no such counters tells nothing."""
    served = 0

    async def metrics(_: web.Request) -> web.Response:
        nonlocal served
        served += 1
        return web.Response(text=COUNTED[served - 1])

    async with serving_app(web.get("/metrics", metrics)) as url:
        watch = StepWatch(url, 1, 3)
        watch.answered()
        await eventually(lambda: served == 1)
        for _ in range(3):
            watch.answered()
        assert await watch.tokens_per_step() == (1_900 - 300) / (130 - 30)
        blind = StepWatch(url, 1, 2)
        blind.answered()
        blind.answered()
        assert await blind.tokens_per_step() is None
        assert await StepWatch(url, 1, 2).tokens_per_step() is None
