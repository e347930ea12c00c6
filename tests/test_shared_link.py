"""The link to Redis: its loops end when they are told to, whatever the client does with the word."""

import asyncio
from contextlib import suppress

import pytest

from predictor.redis_address import RedisAddress
from proxy.shared.link import Link


async def deaf() -> bool:
    """What `asyncio.wait_for` does on Python 3.11 with a cancel that comes together with its result."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(3600)
    return True


@pytest.mark.parametrize("as_child", [False, True])
async def test_a_swallowed_cancel_still_ends_the_loop(as_child: bool) -> None:
    """A proxy must be able to stop: a cancel that the client's answer hid is heard at the end of the turn."""
    link = Link(RedisAddress("redis://127.0.0.1:1/0"))
    kept = link.keep("test", deaf)

    async def parent() -> None:
        await asyncio.gather(kept)

    task = asyncio.create_task(parent() if as_child else kept)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=10)
    assert done, "the loop goes on"
    assert task.cancelled()
    await link.close()
