"""Highest response ratio next, for comparison only: its order changes with time, so no static key tells it."""

from collections.abc import Sequence

import numpy as np

from proxy.scheduling.queued import Changes, QueuedRequest, State
from proxy.scheduling.scheduler import NOTHING


class HrrnQueue:
    """Sends whoever has waited longest in multiples of its own predicted time: (wait + service) / service.

    Beside the scheduler and not inside: `Policy` promises keys that time does not change, because an engine
    freezes them at submission. So this is hold mode only, and each dispatch looks at everybody who waits.
    """

    def __init__(self, windows: Sequence[int], prefill_token_s: float, token_s: float, capacity: int) -> None:
        """`windows`: per replica; costs of a predicted service time; `capacity`: most that can ever wait."""
        self._free = list(windows)
        self._prefill_token_s = prefill_token_s
        self._token_s = token_s
        self._arrival_us = np.zeros(capacity)
        self._per_service = np.zeros(capacity)
        self._waiting: list[QueuedRequest] = []

    def submit(self, item: QueuedRequest, now_us: int) -> Changes:
        """Admit a request; it starts at once where there is room."""
        place = len(self._waiting)
        service_s = item.prompt_tokens * self._prefill_token_s + item.prediction.tokens * self._token_s
        self._arrival_us[place] = item.arrival_us
        self._per_service[place] = 1 / max(service_s, 1e-9)
        self._waiting.append(item)
        item.state = State.WAITING
        return self._start(now_us)

    def finish(self, item: QueuedRequest, now_us: int, actual_tokens: float | None = None) -> Changes:  # noqa: ARG002
        """A running request has ended."""
        item.state = State.FINISHED
        self._free[int(item.replica or 0)] += 1
        return self._start(now_us)

    def _start(self, now_us: int) -> Changes:
        started = []
        while self._waiting and max(self._free) > 0:
            item = self._take(now_us)
            replica = int(np.argmax(self._free))
            self._free[replica] -= 1
            item.replica = str(replica)
            item.state = State.RUNNING
            item.dispatched_us = now_us
            started.append(item)
        return Changes(started) if started else NOTHING

    def _take(self, now_us: int) -> QueuedRequest:
        count = len(self._waiting)
        # At the instant of arrival every ratio is 1: half a microsecond lets the shorter one win.
        ratio = (now_us + 0.5 - self._arrival_us[:count]) * self._per_service[:count]
        place = int(np.argmax(ratio))
        item, last = self._waiting[place], self._waiting.pop()
        if item is not last:
            self._waiting[place] = last
            self._arrival_us[place] = self._arrival_us[count - 1]
            self._per_service[place] = self._per_service[count - 1]
        return item
