"""The engine model in real time: every token once, whatever the event loop is doing meanwhile."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from emulation import quick_profile, until

from training.emulator.loop import EngineLoop
from training.engine import EngineModel, Event, QueueFullError, Sequence


class Ear:
    """Counts what it hears of each sequence."""

    def __init__(self) -> None:
        self.tokens: Counter[int] = Counter()
        self.ends: list[Event] = []
        self.times_s: list[float] = []

    def on_token(self, sequence_id: int, now_s: float) -> None:
        """One more token."""
        self.tokens[sequence_id] += 1
        self.times_s.append(now_s)

    def on_end(self, event: Event) -> None:
        """The end."""
        self.ends.append(event)


@asynccontextmanager
async def running(**limits: int) -> AsyncIterator[EngineLoop]:
    """An engine loop at work."""
    loop = EngineLoop(EngineModel(quick_profile(), max_jump=1, **limits))
    task = asyncio.create_task(loop.run())
    await asyncio.sleep(0)
    yield loop
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_every_token_is_heard_once_and_then_the_end() -> None:
    """As many calls as tokens, the times growing, one end each."""
    ear = Ear()
    async with running() as loop:
        for number in range(20):
            loop.submit(Sequence(number, 10, number + 1), ear)
            await asyncio.sleep(0.001)
        await until(lambda: len(ear.ends) == 20)
    assert ear.tokens == {number: number + 1 for number in range(20)}
    assert ear.times_s == sorted(ear.times_s)


@pytest.mark.parametrize("blocked_s", [0.02, 0.4])
async def test_no_token_is_lost_when_the_event_loop_was_blocked(blocked_s: float) -> None:
    """Submitting into a lag must not run the overdue iterations behind the listeners' backs."""
    ear = Ear()
    async with running() as loop:
        loop.submit(Sequence(1, 10, 50), ear)
        await until(lambda: ear.tokens[1] > 3)
        time.sleep(blocked_s)
        loop.submit(Sequence(2, 10, 5), ear)
        loop.abort(99)
        await until(lambda: len(ear.ends) == 2)
    assert ear.tokens == {1: 50, 2: 5}


async def test_an_aborted_sequence_is_not_heard_of_again() -> None:
    """No token and no end after `abort`, which may come twice; the others go on."""
    ear = Ear()
    async with running() as loop:
        # The first is long: it has not ended before it is aborted, however late that is.
        for number, tokens in ((1, 50_000), (2, 30)):
            loop.submit(Sequence(number, 10, tokens), ear)
        await until(lambda: ear.tokens[1] > 3)
        loop.abort(1)
        loop.abort(1)
        heard = ear.tokens[1]
        await until(lambda: len(ear.ends) == 1)
        assert loop.model.num_running == 0
    assert (ear.tokens[1], ear.tokens[2]) == (heard, 30)


async def test_a_refused_sequence_leaves_no_trace() -> None:
    """A full queue is the caller's to handle; nobody listens for what was never queued."""
    ear = Ear()
    async with running(max_num_queued_reqs=1) as loop:
        loop.submit(Sequence(1, 10, 5), ear)
        with pytest.raises(QueueFullError):
            loop.submit(Sequence(2, 10, 5), ear)
        await until(lambda: len(ear.ends) == 1)
    assert ear.tokens == {1: 5}


async def test_engine_time_goes_slower_but_never_back() -> None:
    """`slowness` bends the clock; it does not break it."""
    async with running() as loop:
        seen = [loop.now_s()]
        for slowness in (1.0, 1e6, 0.5):
            loop.set_slowness(slowness)
            await asyncio.sleep(0.005)
            seen.append(loop.now_s())
    assert seen == sorted(seen)
    assert seen[2] - seen[1] < seen[1] - seen[0]
