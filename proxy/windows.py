"""The adaptive windows at work: one controller per engine, told what happens, its word given to the scheduler."""

from proxy.scheduling.level import Limits
from proxy.scheduling.queued import Changes, QueuedRequest
from proxy.scheduling.scheduler import NOTHING, Scheduler
from proxy.scheduling.window import WindowController


class Windows:
    """Every engine's window; those that order by themselves have none, and get everything at once."""

    def __init__(self, scheduler: Scheduler, *, fixed: int | None) -> None:
        self._scheduler = scheduler
        self._fixed = fixed
        self._controllers: dict[str, WindowController] = {}

    def add(self, engine: str, now_us: int) -> Changes:
        """A new engine; it may be sent to from now on."""
        controller = self._controllers[engine] = WindowController(Limits(), fixed=self._fixed)
        return self._scheduler.add_replica(engine, controller.window, now_us)

    def limit(self, engine: str, *, unlimited: bool, now_us: int) -> Changes:
        """The engine turned out to order by itself, or not to."""
        if unlimited:
            self._controllers.pop(engine, None)
            return self._scheduler.set_window(engine, None, now_us)
        if engine in self._controllers:
            return NOTHING
        controller = self._controllers[engine] = WindowController(Limits(), fixed=self._fixed)
        return self._scheduler.set_window(engine, controller.window, now_us)

    def reason(self, engine: str) -> str:
        """Why an engine's window is what it is."""
        controller = self._controllers.get(engine)
        return "no limit" if controller is None else controller.reason

    def sent(self, item: QueuedRequest, now_us: int) -> Changes:
        """A request goes to its engine."""
        controller = self._of(item)
        if controller is None:
            return NOTHING
        controller.sent(item.seq, now_us, streamed=item.streamed)
        return self._follow(item.replica, controller, now_us)

    def began(self, item: QueuedRequest, now_us: int) -> Changes:
        """The first byte of its answer came."""
        controller = self._of(item)
        if controller is None:
            return NOTHING
        controller.first_byte(item.seq, now_us)
        return self._follow(item.replica, controller, now_us)

    def ended(self, item: QueuedRequest, now_us: int, queue_us: int | None, *, answered: bool) -> Changes:
        """It has left the engine, with its whole answer or without."""
        controller = self._of(item)
        if controller is None:
            return NOTHING
        controller.ended(item.seq, now_us, queue_us, answered=answered)
        return self._follow(item.replica, controller, now_us)

    def polled(self, engine: str, running: int, waiting: int, kv_usage: float, now_us: int) -> Changes:
        """The engine's own gauges, seconds old."""
        controller = self._controllers.get(engine)
        if controller is None:
            return NOTHING
        controller.gauges(running, waiting, kv_usage, now_us)
        return self._follow(engine, controller, now_us)

    def restarted(self, engine: str, now_us: int) -> Changes:
        """The engine came back: it may be another one now."""
        controller = self._controllers.get(engine)
        if controller is None:
            return NOTHING
        controller.reset()
        return self._follow(engine, controller, now_us)

    def _of(self, item: QueuedRequest) -> WindowController | None:
        return None if item.replica is None else self._controllers.get(item.replica)

    def _follow(self, engine: str | None, controller: WindowController, now_us: int) -> Changes:
        replica = self._scheduler.replica(engine or "")
        if replica.window == controller.window:
            return NOTHING
        return self._scheduler.set_window(replica.name, controller.window, now_us)
