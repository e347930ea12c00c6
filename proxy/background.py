"""What runs in the background as long as the proxy does, so that none of it dies unheard."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

_LOG: Final = logging.getLogger("headway")


def in_background(part: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that is to run until it is cancelled; where it ends with an error, the log says so at once."""
    task = asyncio.create_task(part)
    task.add_done_callback(_say_how_it_ended)
    return task


def _say_how_it_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.error(
            "%s has died, and what it did is no longer done: restart this proxy",
            task.get_coro(),
            exc_info=error,
        )
