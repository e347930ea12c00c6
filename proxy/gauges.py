"""Gauges that are read when /metrics is: the proxy's queue and each engine's state."""

import math
from collections.abc import Callable
from typing import Final

from proxy.clock import Clock
from proxy.fairness import Fairness
from proxy.metrics import Metrics
from proxy.order_watch import OrderWatch, Verdict
from proxy.scheduling.scheduler import Replica, Scheduler

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
