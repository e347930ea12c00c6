"""The one place where the scheduler meets asyncio: handlers wait here for their turn."""

import asyncio

from proxy.clock import Clock
from proxy.errors import EngineUnreachable, QueueFull
from proxy.scheduling.queued import QueuedRequest, State
from proxy.scheduling.scheduler import Scheduler


class Dispatcher:
    """Lets each handler sleep until its request may be sent, and wakes whoever is next when one ends."""

    def __init__(self, scheduler: Scheduler, clock: Clock, *, max_waiting: int) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._max_waiting = max_waiting
        self._sleepers: dict[int, asyncio.Future[None]] = {}
        self._blackout: str | None = None

    @property
    def scheduler(self) -> Scheduler:
        """The state behind it; read it freely, change it only through this class."""
        return self._scheduler

    async def admit(self, item: QueuedRequest) -> None:
        """Wait until `item` may be sent to `item.replica`.

        Raises QueueFull at once where too many wait, EngineUnreachable where no engine is left. Cancelled
        while waiting, the request leaves the queue at once. Whoever returns from here must call `release`.
        """
        if self._blackout is not None:
            raise EngineUnreachable(self._blackout)
        if self._scheduler.waiting >= self._max_waiting:
            raise QueueFull(
                f"{self._scheduler.waiting} requests wait already (max_waiting is {self._max_waiting}).",
                retry_after_s=1.0,
            )
        self.wake(self._scheduler.submit(item, self._clock.now_us()))
        if item.state is State.RUNNING:
            return
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers[item.seq] = sleeper
        try:
            await sleeper
        except (asyncio.CancelledError, EngineUnreachable):
            # It may have been started in the same turn of the loop: cancel handles both states.
            self.wake(self._scheduler.cancel(item, self._clock.now_us()))
            raise
        finally:
            self._sleepers.pop(item.seq, None)

    def release(self, item: QueuedRequest) -> None:
        """The exchange with the engine has ended, in whatever way."""
        self.wake(self._scheduler.finish(item, self._clock.now_us()))

    def black_out(self, reason: str | None) -> None:
        """No engine has been there for too long: refuse everybody who waits or comes, until None."""
        self._blackout = reason
        if reason is not None:
            for sleeper in self._sleepers.values():
                if not sleeper.done():
                    sleeper.set_exception(EngineUnreachable(reason))

    def wake(self, started: list[QueuedRequest]) -> None:
        """Let the handlers of requests that the scheduler has just started go on."""
        for item in started:
            sleeper = self._sleepers.get(item.seq)
            if sleeper is not None and not sleeper.done():
                sleeper.set_result(None)
