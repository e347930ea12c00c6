"""The engine model in real time: one task that lets an iteration pass, then hands out its tokens."""

import asyncio
from typing import Final, Protocol

from training.engine.model import EngineModel
from training.engine.types import Event, EventKind, Iteration, Sequence

_MAX_LAG_S: Final = 0.25
_NANOSECOND: Final = 1e-9


class Listener(Protocol):
    """Whoever waits for a sequence's tokens. Called on the event loop; must not block, must not raise."""

    def on_token(self, sequence_id: int, now_s: float) -> None:
        """One more token."""
        ...

    def on_end(self, event: Event) -> None:
        """The sequence has finished: nothing follows."""
        ...


class EngineLoop:
    """Runs an EngineModel (with max_jump=1) against the event loop's clock.

    `slowness` stretches the engine's time: at 3 an iteration lasts three times as long. Late timers do not
    add up, as the next iteration is due by the model's clock; only a lag beyond a quarter of a second, when
    the machine cannot keep up, is written off.
    """

    def __init__(self, model: EngineModel) -> None:
        self.model = model
        self._slowness = 1.0
        self._listeners: dict[int, Listener] = {}
        self._work = asyncio.Event()
        self._iteration_end_s: float | None = None
        self._engine_s = 0.0
        self._wall_s = 0.0

    def now_s(self) -> float:
        """Engine time in seconds. It waits at the end of an iteration until its tokens are handed out."""
        now_s = self._clock_s()
        if self._iteration_end_s is None:
            return now_s
        return min(now_s, self._iteration_end_s - _NANOSECOND)

    def set_slowness(self, factor: float) -> None:
        """Stretch engine time from now on; `factor` is above 0."""
        self._set_clock(self.now_s())
        self._slowness = factor

    def submit(self, seq: Sequence, listener: Listener) -> float:
        """Queue a sequence; returns the engine time of its arrival. Raises as EngineModel.submit does."""
        now_s = self.now_s()
        self.model.submit(seq, now_s)
        self._listeners[seq.id] = listener
        self._iteration_end_s = self.model.next_event_s()
        self._work.set()
        return now_s

    def abort(self, sequence_id: int) -> None:
        """Drop a sequence, if it is still there; its listener hears nothing more."""
        if self._listeners.pop(sequence_id, None) is not None:
            self.model.abort(sequence_id, self.now_s())

    async def run(self) -> None:
        """Until cancelled."""
        self._set_clock(0.0)
        while True:
            self._iteration_end_s = end_s = self.model.next_event_s()
            if end_s is None:
                self._work.clear()
                await self._work.wait()
                continue
            await asyncio.sleep(max(0.0, (end_s - self._clock_s()) * self._slowness))
            if self._clock_s() - end_s > _MAX_LAG_S:
                self._set_clock(end_s)
            self._hand_out(self.model.step())

    def _clock_s(self) -> float:
        return self._engine_s + (asyncio.get_running_loop().time() - self._wall_s) / self._slowness

    def _set_clock(self, engine_s: float) -> None:
        self._engine_s = engine_s
        self._wall_s = asyncio.get_running_loop().time()

    def _hand_out(self, iteration: Iteration) -> None:
        for sequence_id in iteration.emitted:
            if (listener := self._listeners.get(sequence_id)) is not None:
                listener.on_token(sequence_id, iteration.end_s)
        for event in iteration.events:
            if event.kind is EventKind.FINISHED and (ended := self._listeners.pop(event.sequence_id, None)):
                ended.on_end(event)
