"""What the proxy says of itself: one typed document for the status route, the live page and tests."""

from typing import Final

import msgspec

from proxy.asking.asker import Asker
from proxy.engines.registry import Engines
from proxy.order import Ordering
from proxy.order_watch import OrderWatch
from proxy.scheduling.replica import Replica
from proxy.scheduling.scheduler import Scheduler
from proxy.windows import Windows

_SHOWN_WAITING: Final = 20


class EngineStatus(msgspec.Struct, frozen=True):
    """One engine. `window_reason`: why its window is what it is.

    `version` and `models` as the engine tells them; `reports_cached`: whether its usage tells cached tokens,
    null where that was not seen yet. `priority`: unproven, honoured or ignored, after so many telling `pairs`.
    `self_prediction_cached_share`: of what queries computed of prompts, the share that the requests found.
    """

    url: str
    kind: str
    version: str | None
    models: list[str]
    reports_cached: bool | None
    available: bool
    running: int
    window: int | None
    window_reason: str
    priority: str
    pairs: int
    self_prediction_cached_share: float | None


class ShadowStatus(msgspec.Struct, frozen=True):
    """An artifact that orders nothing. Both accuracies are over the same `requests`, sampled ones."""

    artifact: str
    accuracy: float | None
    champion_accuracy: float | None
    requests: int


class RetrainingStatus(msgspec.Struct, frozen=True):
    """`headway retrain` beside this proxy: whether it runs now, how often it did and failed, its last word."""

    running: bool
    runs: int
    failures: int
    last: str


class RankerStatus(msgspec.Struct, frozen=True):
    """The ranker in service. `accuracy`: share of pairs among the last `accuracy_requests` in the right order;
    `drift`: expected over actual tokens; both null while too little has ended."""

    artifact: str
    failures: int
    accuracy: float | None
    accuracy_requests: int
    drift: float | None
    fallen_back: bool
    recalibrated_groups: int
    shadow: ShadowStatus | None
    retraining: RetrainingStatus | None


class WaitingStatus(msgspec.Struct, frozen=True):
    """One request that waits; no text, no tenant's secrets."""

    request_id: str
    waited_s: float
    predicted_tokens: float
    place: int


class Status(msgspec.Struct, frozen=True):
    """The proxy now. `outcomes` counts ended requests by how they ended; `order` says who chose the knobs."""

    version: str
    mode: str
    policy: str
    max_overtake_s: float | None
    order: Ordering
    artifact: str
    ranker: RankerStatus
    draining: bool
    waiting: int
    running: int
    outcomes: dict[str, int]
    engines: list[EngineStatus]
    first_waiting: list[WaitingStatus]
    traffic_log_written: int
    traffic_log_dropped: int


def engine_status(
    replica: Replica, engines: Engines, watch: OrderWatch, windows: Windows, asker: Asker | None
) -> EngineStatus:
    """One engine as it is known now."""
    facts = engines.facts(replica.name)
    return EngineStatus(
        url=replica.name,
        kind=engines.adapter(replica.name).kind,
        version=facts.version if facts else None,
        models=[model.id for model in facts.models] if facts else [],
        reports_cached=engines.reports_cached(replica.name),
        available=replica.available,
        running=replica.running,
        window=replica.window,
        window_reason=windows.reason(replica.name),
        priority=watch.verdict.value,
        pairs=watch.pairs,
        self_prediction_cached_share=asker.cached_share(replica.name) if asker else None,
    )


def first_waiting(scheduler: Scheduler, now_us: int) -> list[WaitingStatus]:
    """Who is next."""
    return [
        WaitingStatus(item.request_id, (now_us - item.arrival_us) / 1e6, item.prediction.tokens, place)
        for place, item in enumerate(scheduler.waiting_in_order()[:_SHOWN_WAITING])
    ]
