"""Gauges that are read when /metrics is: the proxy's queue and each engine's state."""

import math
from collections.abc import Callable
from typing import Final

from predictor.live_order import Accuracy
from proxy.clock import Clock
from proxy.fairness import Fairness
from proxy.learning import Learning
from proxy.metrics import Metrics
from proxy.order_watch import OrderWatch, Verdict
from proxy.scheduling.replica import Replica
from proxy.scheduling.scheduler import Scheduler
from proxy.shared.together import Together

_HONOURED: Final = {Verdict.HONOURED: 1.0, Verdict.IGNORED: 0.0, Verdict.UNPROVEN: -1.0}


def watch_proxy(
    metrics: Metrics, scheduler: Scheduler, clock: Clock, fairness: Fairness, log_dropped: Callable[[], int]
) -> None:
    """What the proxy holds, has lost, and how far its clock is off."""
    gauge = metrics.gauge
    gauge("headway_requests_waiting", "Requests held.", lambda: scheduler.waiting)
    gauge("headway_waiting_tokens", "Predicted tokens of what is held.", lambda: scheduler.waiting_tokens)
    gauge("headway_requests_running", "Requests at engines.", lambda: scheduler.running)
    gauge(
        "headway_tenant_fairness",
        "Jain index of tokens over weight that tenants got in the last minute.",
        lambda: fairness.jain(clock.now_us()),
    )
    gauge("headway_traffic_log_dropped", "Traffic records lost.", log_dropped)
    gauge(
        "headway_clock_skew_seconds", "Wall clock against the proxy's clock.", lambda: clock.skew_us() / 1e6
    )


def watch_ranker(metrics: Metrics, learning: Learning) -> None:
    """How well the ranker does, and whether it may order; NaN while too little has ended to tell."""
    guardrail, shadow = learning.guardrail, learning.shadow
    metrics.count(
        "headway_ranker_failures",
        "Requests that could not be ranked and keep their arrival order.",
        lambda: learning.failures,
    )
    metrics.gauge(
        "headway_live_pairwise_accuracy",
        "Share of known pairs of the last requests that were predicted in the right order; 0.5 is chance.",
        lambda: _share(guardrail.accuracy),
    )
    metrics.gauge(
        "headway_shadow_pairwise_accuracy",
        "The same of the shadow artifact, on a sample of them.",
        lambda: _share(shadow.accuracies[0]),
    )
    metrics.gauge(
        "headway_length_drift",
        "Tokens that the artifact expected over those that came, before recalibration.",
        lambda: guardrail.order.drift() or math.nan,
    )
    metrics.gauge(
        "headway_fallback_fcfs",
        "1: the order is first come, first served, because the ranker was proved too bad.",
        lambda: float(guardrail.fallen),
    )
    metrics.counts(
        "headway_artifact_reloads",
        "Published artifacts that were taken into service, refused, or whose pointer could not be read.",
        ("role", "outcome"),
        lambda: {
            (role.value, outcome): count
            for role, watch in learning.watches.items()
            for outcome, count in watch.outcomes.items()
        },
    )


def _share(accuracy: Accuracy | None) -> float:
    return math.nan if accuracy is None else accuracy.share


def watch_redis(metrics: Metrics, together: Together) -> None:
    """What is shared with other proxies, and whether it is at present."""
    metrics.gauge(
        "headway_redis_up", "Whether Redis takes all that is shared.", lambda: float(together.works)
    )
    metrics.gauge(
        "headway_proxies",
        "Proxies that are known to send to the same engines, this one included.",
        lambda: together.places.proxies,
    )


def watch_engine(metrics: Metrics, replica: Replica, order: OrderWatch) -> None:
    """One engine's state."""

    def gauge(name: str, text: str, read: Callable[[], float]) -> None:
        metrics.engine_gauge(name, text, replica.name, read)

    gauge("headway_engine_up", "Whether the engine answers.", lambda: float(replica.available))
    gauge("headway_engine_running", "Requests at the engine.", lambda: float(replica.running))
    gauge(
        "headway_window",
        "Most requests at the engine; infinite: no limit.",
        lambda: math.inf if replica.window is None else replica.window,
    )
    gauge(
        "headway_priority_honoured",
        "The engine's order: 1 by our priorities, 0 not, -1 not proven.",
        lambda: _HONOURED[order.verdict],
    )
