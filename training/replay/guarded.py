"""The proxy's guardrail in virtual time: the scheduler, whose order falls back while predictions are proved bad."""

from predictor.live_order import FLOOR, Ended, Guardrail
from proxy.order import fallen_back
from proxy.scheduling.policy import Policy
from proxy.scheduling.queued import Changes, QueuedRequest
from proxy.scheduling.scheduler import Scheduler


class GuardedQueue:
    """A `Queue`: a scheduler that holds each ended request's prediction against its true length."""

    def __init__(self, inner: Scheduler, policy: Policy, floor: float = FLOOR) -> None:
        """`policy` is the configured one of every class; `floor` is the setting `accuracy_floor`."""
        self._inner = inner
        self._policies = {service.name: policy for service in inner.classes}
        self.guardrail = Guardrail(floor)
        self.switched_us: list[int] = []

    def submit(self, item: QueuedRequest, now_us: int) -> Changes:
        """Admit a request."""
        return self._inner.submit(item, now_us)

    def finish(self, item: QueuedRequest, now_us: int, actual_tokens: float | None = None) -> Changes:
        """A request has ended: the next one starts, maybe in another order from now on."""
        changes = self._inner.finish(item, now_us, actual_tokens)
        if actual_tokens is None:
            return changes
        predicted = item.prediction
        ended = Ended(predicted.quantile, predicted.tokens, actual_tokens - item.prompt_tokens)
        if not self.guardrail.add(ended):
            return changes
        self.switched_us.append(now_us)
        policies = fallen_back(self._policies) if self.guardrail.fallen else self._policies
        more = self._inner.switch_policies(policies, now_us)
        return Changes([*changes.started, *more.started], [*changes.refused, *more.refused])
