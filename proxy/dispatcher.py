"""The one place where the scheduler meets asyncio: handlers wait here for their turn."""

import asyncio
from typing import Final

from predictor.prediction import Prediction
from proxy.clock import Clock
from proxy.errors import EngineUnreachable, Expired, HeadwayError, QueueFull, TenantFull
from proxy.scheduling.queued import Changes, QueuedRequest, Reason, State
from proxy.scheduling.scheduler import Scheduler
from proxy.scheduling.speed import Speed
from proxy.windows import Windows

_TICK_S: Final = 0.25
# Retry-After where nothing is known of the engines' speed yet, and its bounds.
_UNKNOWN_DRAIN_S: Final = 1.0
_LONGEST_RETRY_S: Final = 600.0


class Dispatcher:
    """Lets each handler sleep until its request may be sent, and wakes whoever is next when one ends."""

    def __init__(self, scheduler: Scheduler, windows: Windows, clock: Clock) -> None:
        self._scheduler = scheduler
        self._windows = windows
        self._clock = clock
        self._sleepers: dict[int, asyncio.Future[None]] = {}
        self._blackout: str | None = None
        self._speed = Speed()

    @property
    def scheduler(self) -> Scheduler:
        """The state behind it; read it freely, change it only through `apply`."""
        return self._scheduler

    @property
    def tokens_per_s(self) -> float | None:
        """What the engines compute together; None until known."""
        return self._speed.tokens_per_s(self._scheduler.running)

    async def run(self) -> None:
        """Let time pass, until cancelled: deadlines expire, a class's hours begin."""
        while True:
            await asyncio.sleep(_TICK_S)
            now_us = self._clock.now_us()
            self.apply(self._windows.tick(now_us))
            if self._scheduler.waiting:
                self.apply(self._scheduler.expire(now_us, self.tokens_per_s))
                self.apply(self._scheduler.tick(now_us))

    async def admit(self, item: QueuedRequest) -> None:
        """Wait until `item` may be sent to `item.replica`.

        Raises QueueFull, TenantFull, Expired or, where no engine is left, EngineUnreachable. Cancelled while
        waiting, the request leaves the queue at once. Whoever returns from here must call `release`.
        """
        if self._blackout is not None:
            raise EngineUnreachable(self._blackout)
        changes = self._scheduler.submit(item, self._clock.now_us())
        if item.state is State.RUNNING:
            self.apply(changes)
            return
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers[item.seq] = sleeper
        self.apply(changes)
        try:
            await sleeper
        except (asyncio.CancelledError, HeadwayError):
            # It may have been started in the same turn of the loop: then it is at its engine as far as
            # anybody knows, and leaves it.
            self.release(item)
            self.apply(self._scheduler.cancel(item, self._clock.now_us()))
            raise
        finally:
            self._sleepers.pop(item.seq, None)

    def rekey(self, item: QueuedRequest, prediction: Prediction) -> None:
        """A better prediction of a waiting request came."""
        self.apply(self._scheduler.rekey(item, prediction, self._clock.now_us()))

    def began(self, item: QueuedRequest) -> None:
        """The engine has sent the first byte of its answer."""
        self.apply(self._windows.began(item, self._clock.now_us()))

    def release(
        self, item: QueuedRequest, actual_tokens: float | None = None, engine_queue_ms: float | None = None
    ) -> None:
        """The exchange with the engine has ended, in whatever way; a second call changes nothing.

        `actual_tokens`: prompt and output tokens, where the engine gave a whole answer and counted them.
        """
        if item.state is not State.RUNNING:
            return
        now_us = self._clock.now_us()
        if actual_tokens is not None and item.dispatched_us is not None:
            self._speed.ended(actual_tokens, now_us - item.dispatched_us, now_us)
        queue_us = None if engine_queue_ms is None else round(engine_queue_ms * 1000)
        self.apply(self._scheduler.finish(item, now_us, actual_tokens))
        self.apply(self._windows.ended(item, now_us, queue_us, answered=actual_tokens is not None))

    def refused(self, item: QueuedRequest) -> None:
        """The engine's own queue is full: it gets fewer. Its place is free with that, not before."""
        self.apply(self._windows.refused(item, self._clock.now_us()))
        self.release(item)

    def polled(self, engine: str, running: int, waiting: int, kv_usage: float) -> None:
        """An engine's own gauges were read."""
        self.apply(self._windows.polled(engine, running, waiting, kv_usage, self._clock.now_us()))

    def seen(self, engine: str, available: bool) -> None:
        """An engine was found there, or gone."""
        now_us = self._clock.now_us()
        if available:
            self.apply(self._windows.restarted(engine, now_us))
        self.apply(self._scheduler.set_available(engine, available, now_us))

    def pause(self, engine: str, *, paused: bool) -> None:
        """Send nothing to an engine for a moment; unlike one that was gone, it is not learned anew afterwards."""
        self.apply(self._scheduler.set_available(engine, not paused, self._clock.now_us()))

    def apply(self, changes: Changes) -> None:
        """Let the handlers of requests that were started go on, and those of refused ones end."""
        for item in changes.started:
            self.apply(self._windows.sent(item, item.dispatched_us or 0))
            sleeper = self._sleepers.get(item.seq)
            if sleeper is not None and not sleeper.done():
                sleeper.set_result(None)
        for item, reason in changes.refused:
            self._fail(item.seq, self._refusal(reason))

    def black_out(self, reason: str | None) -> bool:
        """No engine has been there for too long: refuse everybody who waits or comes, until None.

        Says whether that is new.
        """
        begins = reason is not None and self._blackout is None
        self._blackout = reason
        if reason is not None:
            self.refuse_waiting(EngineUnreachable(reason))
        return begins

    def refuse_waiting(self, error: HeadwayError) -> None:
        """Refuse everybody who waits."""
        for seq in list(self._sleepers):
            self._fail(seq, error)

    def _fail(self, seq: int, error: HeadwayError) -> None:
        sleeper = self._sleepers.get(seq)
        if sleeper is not None and not sleeper.done():
            sleeper.set_exception(error)

    def _refusal(self, reason: Reason) -> HeadwayError:
        waiting = self._scheduler.waiting
        if reason is Reason.EXPIRED:
            return Expired(f"This request cannot begin in time: {waiting} requests wait.")
        after_s = self._drain_s()
        if reason is Reason.TENANT_FULL:
            return TenantFull("Your key has as many requests waiting as it may.", retry_after_s=after_s)
        return QueueFull(f"The queue is full: {waiting} requests wait.", retry_after_s=after_s)

    def _drain_s(self) -> float:
        """Seconds until half of what waits will have been computed, by prediction."""
        speed = self.tokens_per_s
        if not speed:
            return _UNKNOWN_DRAIN_S
        return min(_LONGEST_RETRY_S, self._scheduler.waiting_tokens / 2 / speed)
