"""How many requests are being answered, so that a drain knows when the last one has ended."""

import asyncio
from types import TracebackType


class ActiveCount:
    """A re-entrant `with active:` around each request; `idle()` waits until nobody is inside."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __int__(self) -> int:
        return self._count

    def __enter__(self) -> None:
        self._count += 1
        self._idle.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until nobody is inside; returns at once where nobody is."""
        await self._idle.wait()
