"""The proxy's guardrail in virtual time: the scheduler, whose order falls back while predictions are proved bad."""

import math
from typing import Final

from predictor.live_order import FLOOR, JUDGED_EVERY_S, Guardrail
from proxy.order import fallen_back
from proxy.scheduling.policy import Policy
from proxy.scheduling.queued import Changes, QueuedRequest
from proxy.scheduling.scheduler import Scheduler

_JUDGED_EVERY_US: Final = round(JUDGED_EVERY_S * 1e6)


class GuardedQueue:
    """A `Queue`: a scheduler that holds each request's prediction against its true length, as often as the proxy."""

    def __init__(self, inner: Scheduler, policy: Policy, floor: float = FLOOR) -> None:
        """`policy` is the configured one of every class; `floor` is the setting `accuracy_floor`."""
        self._inner = inner
        self._policies = {service.name: policy for service in inner.classes}
        self.guardrail = Guardrail(floor)
        self.switched_us: list[int] = []
        self._tickets: dict[int, int] = {}
        self._judged_us = 0

    def submit(self, item: QueuedRequest, now_us: int) -> Changes:
        """Admit a request."""
        return self._begun(self._inner.submit(item, now_us), now_us)

    def finish(self, item: QueuedRequest, now_us: int, actual_tokens: float | None = None) -> Changes:
        """A request has ended: the next one starts, maybe in another order from now on."""
        changes = self._inner.finish(item, now_us, actual_tokens)
        tokens = math.nan if actual_tokens is None else actual_tokens - item.prompt_tokens
        self.guardrail.end(self._tickets.pop(item.seq), now_us, tokens)
        if now_us - self._judged_us >= _JUDGED_EVERY_US:
            self._judged_us = now_us
            changes = self._judged(changes, now_us)
        return self._begun(changes, now_us)

    def _judged(self, changes: Changes, now_us: int) -> Changes:
        if not self.guardrail.judge(now_us):
            return changes
        self.switched_us.append(now_us)
        policies = fallen_back(self._policies) if self.guardrail.fallen else self._policies
        more = self._inner.switch_policies(policies, now_us)
        return Changes([*changes.started, *more.started], [*changes.refused, *more.refused])

    def _begun(self, changes: Changes, now_us: int) -> Changes:
        for item in changes.started:
            predicted = item.prediction
            self._tickets[item.seq] = self.guardrail.begin(now_us, predicted.quantile, predicted.tokens)
        return changes
