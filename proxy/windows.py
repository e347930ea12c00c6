"""The adaptive windows at work: one controller per engine, told what happens, its word given to the scheduler."""

from collections.abc import Iterable

import msgspec

from proxy.scheduling.level import Limits
from proxy.scheduling.queued import Changes, QueuedRequest
from proxy.scheduling.scheduler import NOTHING, Scheduler
from proxy.scheduling.window import UNLIMITED, WindowController


class Share(msgspec.Struct, frozen=True):
    """This proxy's part of an engine's window."""

    places: int
    reason: str


class Windows:
    """Every engine's window; that of engines which order by themselves has no limit but their own."""

    def __init__(self, scheduler: Scheduler, *, fixed: int | None) -> None:
        self._scheduler = scheduler
        self._fixed = fixed
        self._controllers: dict[str, WindowController] = {}
        self._unlimited: set[str] = set()
        # Engines that refused us though nothing of ours was there: they get nothing until the next tick.
        self._paused: set[str] = set()
        self._shares: dict[str, Share] = {}

    def add(self, engine: str, now_us: int) -> Changes:
        """A new engine; it may be sent to from now on."""
        controller = self._controllers[engine] = WindowController(Limits(), fixed=self._fixed)
        return self._scheduler.add_replica(engine, controller.window, now_us)

    def remove(self, engine: str) -> None:
        """The engine is gone for good."""
        self._controllers.pop(engine, None)
        self._shares.pop(engine, None)
        self._unlimited.discard(engine)
        self._paused.discard(engine)

    def __contains__(self, engine: str) -> bool:
        return engine in self._controllers

    def limit(self, engine: str, *, unlimited: bool, now_us: int) -> Changes:
        """The engine turned out to order by itself, or not to."""
        if unlimited == (engine in self._unlimited):
            return NOTHING
        (self._unlimited.add if unlimited else self._unlimited.discard)(engine)
        fixed = UNLIMITED if unlimited else self._fixed
        self._controllers[engine] = WindowController(Limits(), fixed=fixed)
        return self._follow(engine, now_us)

    def reason(self, engine: str) -> str:
        """Why an engine's window is what it is."""
        if engine in self._paused:
            return "refused while nothing of ours was there"
        share = self._shares.get(engine)
        return self._controllers[engine].reason if share is None else share.reason

    def controller(self, engine: str) -> WindowController | None:
        """What this proxy alone would do; None where there is no limit."""
        return None if engine in self._unlimited else self._controllers[engine]

    @property
    def fixed(self) -> int | None:
        """Every engine's window where it is not found but given."""
        return self._fixed

    def share(self, engine: str, share: Share | None, now_us: int) -> Changes:
        """Other proxies send to the engine too: this is our part of its window, None: all of it again."""
        if share is None:
            self._shares.pop(engine, None)
        else:
            self._shares[engine] = share
        return self._follow(engine, now_us)

    def sent(self, item: QueuedRequest, now_us: int) -> Changes:
        """A request goes to its engine."""
        if item.replica is None:
            return NOTHING
        self._controllers[item.replica].sent(item.seq, now_us, streamed=item.streamed)
        return self._follow(item.replica, now_us)

    def began(self, item: QueuedRequest, now_us: int) -> Changes:
        """The first byte of its answer came."""
        if item.replica is None:
            return NOTHING
        self._controllers[item.replica].first_byte(item.seq, now_us)
        return self._follow(item.replica, now_us)

    def ended(self, item: QueuedRequest, now_us: int, queue_us: int | None, *, answered: bool) -> Changes:
        """It has left the engine, with its whole answer or without."""
        if item.replica is None:
            return NOTHING
        self._controllers[item.replica].ended(item.seq, now_us, queue_us, answered=answered)
        return self._follow(item.replica, now_us)

    def refused(self, item: QueuedRequest, now_us: int) -> Changes:
        """The engine's own queue is full: it gets fewer, and none for a moment where it has none of ours."""
        if item.replica is None:
            return NOTHING
        controller = self._controllers[item.replica]
        controller.refused(item.seq, now_us)
        if not controller.at_engine:
            self._paused.add(item.replica)
        return self._follow(item.replica, now_us)

    def tick(self, now_us: int) -> Changes:
        """Time has passed: whoever was paused is tried again."""
        paused, self._paused = self._paused, set()
        return _together(self._follow(engine, now_us) for engine in paused)

    def polled(self, engine: str, running: int, waiting: int, kv_usage: float, now_us: int) -> Changes:
        """The engine's own gauges, seconds old."""
        self._scheduler.replica(engine).kv.observe(kv_usage)
        self._controllers[engine].gauges(running, waiting, kv_usage, now_us)
        return self._follow(engine, now_us)

    def restarted(self, engine: str, now_us: int) -> Changes:
        """The engine came back: it may be another one now."""
        self._controllers[engine].reset()
        return self._follow(engine, now_us)

    def _follow(self, engine: str, now_us: int) -> Changes:
        controller, share = self._controllers[engine], self._shares.get(engine)
        window: int | None = controller.window if share is None else min(share.places, controller.ceiling)
        if engine in self._paused:
            window = 0
        window = None if window == UNLIMITED else window
        replica = self._scheduler.replica(engine)
        if replica.window == window:
            return NOTHING
        return self._scheduler.set_window(engine, window, now_us)


def _together(parts: Iterable[Changes]) -> Changes:
    changes = list(parts)
    return Changes(
        [item for one in changes for item in one.started], [item for one in changes for item in one.refused]
    )
