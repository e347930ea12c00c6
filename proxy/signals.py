"""The signals of a serving process: none ends it half started, and none that comes early is lost."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

_STOP: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals wait until `hear` asks for them: imports and settings take a second, in which SIGHUP would kill, and
    process 1 of a container would not hear SIGTERM at all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOP, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear(number: signal.Signals, call: Callable[[], object]) -> None:
    """Call on the running loop for each signal of this number, also for one that was held back."""
    asyncio.get_running_loop().add_signal_handler(number, call)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in _STOP:
        hear(number, stop.set)
    return stop


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do some work, unless a signal comes first; says whether it was done. Raises what the work raises."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    done, _ = await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    for one in (task, stopped):
        one.cancel()
    await asyncio.wait((task, stopped))
    if task in done:
        task.result()
    return task in done
