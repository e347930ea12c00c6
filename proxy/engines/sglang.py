"""SGLang 0.5: one priority per tier, in the body; request ids of our own, so that aborts take effect at once."""

from typing import Final

import msgspec

from predictor.request import Api, RequestBody
from proxy.engines.adapter import Abort, Load, Outgoing, Turn
from proxy.engines.facts import SglangSettings
from proxy.engines.fields import USAGE_FIELD, asks_for_usage, response_id
from proxy.engines.gauges import GaugeNames, read_load
from proxy.splice import splice

# /v1/responses takes a priority and drops it, /v1/messages has none (sglang/srt/entrypoints).
_PRIORITY_APIS: Final = (Api.CHAT, Api.COMPLETIONS, Api.GENERATE)
# Each value becomes a label in the engine's metrics, so there are few: so many steps to each side.
_MOST_STEPS: Final = 9
# By priority there are more series; the one without is the whole (observability/metrics_collector.py).
_GAUGES: Final = GaugeNames(
    running=b"sglang:num_running_reqs",
    waiting=b"sglang:num_queue_reqs",
    kv=b"sglang:token_usage",
    whole=b'priority=""',
)


# The newcomer's and the worst waiter's (_abort_on_queued_limit in managers/scheduler.py).
_FULL: Final = (b"queue is full", b"aborted by a higher priority")


class SglangAdapter(msgspec.Struct, frozen=True):
    """Speaks to SGLang's server, as `settings` say that it was started; None: it did not tell.

    Inside a tier requests are served as they were sent, so that the order of dispatch counts. `default_tier`
    is worth the engine's own default: there stand the requests that can carry no priority.
    """

    settings: SglangSettings | None = None
    default_tier: int = 0

    @property
    def kind(self) -> str:
        return "sglang"

    @property
    def health_path(self) -> str:
        # Not /health: it sleeps for a second and sends the model a request (http_server.py, health_generate).
        return "/ready"

    def is_healthy(self, status: int) -> bool:
        return status == 200

    @property
    def orders_requests(self) -> bool:
        return False

    @property
    def sends_priority(self) -> bool:
        """Whether the engine can be told tiers without harm to anybody."""
        return self._steps(self.default_tier) is not None

    def load(self, metrics: bytes) -> Load | None:
        return read_load(metrics, _GAUGES)

    def is_full(self, status: int, said: bytes) -> bool:
        return status == 503 and any(words in said for words in _FULL)

    def outgoing(
        self, api: Api, raw: bytes, body: RequestBody, turn: Turn | None, request_id: str
    ) -> Outgoing:
        fields = []
        steps = None if turn is None or api not in _PRIORITY_APIS else self._steps(turn.tier)
        if steps is not None:
            fields.append(b'"priority":%d' % self._value(steps))
        added_usage = asks_for_usage(api, body) and not (self.settings and self.settings.usage_by_default)
        if added_usage:
            fields.append(USAGE_FIELD)
        rid = _rid(api, request_id)
        if rid is not None:
            fields.append(f'"{"request_id" if api is Api.RESPONSES else "rid"}":"{rid}"'.encode())
        return Outgoing(
            splice(raw, fields),
            {"X-Request-Id": request_id},
            added_usage,
            rank=steps,
            abort=None if rid is None else Abort("/abort_request", f'{{"rid":"{rid}"}}'.encode()),
            stored_as=rid if api is Api.RESPONSES else None,
        )

    def _steps(self, tier: int) -> int | None:
        """How many steps below the default tier, within what does not make the engine stop running requests.

        None where no priority may be sent: the engine has no order by priority, or no default for requests
        without one, which then would starve (`_set_or_validate_priority` in managers/scheduler.py).
        """
        settings = self.settings
        if settings is None or not settings.enabled or settings.default_value is None:
            return None
        most = min(_MOST_STEPS, settings.preemption_threshold // 2) if settings.preempts else _MOST_STEPS
        return max(-most, min(most, tier - self.default_tier)) if most > 0 else None

    def _value(self, steps: int) -> int:
        settings = self.settings
        assert settings is not None and settings.default_value is not None
        return settings.default_value + (steps if settings.low_first else -steps)


def _rid(api: Api, request_id: str) -> str | None:
    """Our id of the request at the engine: always as long, because the engine aborts by prefix."""
    if api is Api.MESSAGES:
        return None
    return response_id(request_id) if api is Api.RESPONSES else request_id
