"""What the scheduler's tests share: requests of which only the quantile counts, and a queue before one engine."""

from typing import Any

from predictor.prediction import Prediction
from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.policy import Policy
from proxy.scheduling.queued import QueuedRequest
from proxy.scheduling.scheduler import Scheduler

D_US = 1_000
TENANTS = ("ann", "bob", "cy")


def predicted(quantile: float) -> Prediction:
    """A prediction of which only the quantile (and tokens with it) matters."""
    return Prediction(quantile, quantile * 1000, quantile * 500, 1000.0)


def one_engine(policy: Policy, lane_share: float = 0.0, **more: Any) -> Scheduler:
    """A scheduler with one class and one engine that has no room yet."""
    scheduler = Scheduler([ServiceClass("standard", policy)], lane_share=lane_share, **more)
    scheduler.add_replica("engine", 0, 0)
    return scheduler


def submit(scheduler: Scheduler, seq: int, arrival_us: int, quantile: float, **more: Any) -> QueuedRequest:
    """Let one request arrive."""
    item = QueuedRequest(seq, f"r{seq}", arrival_us, predicted(quantile), **more)
    scheduler.submit(item, arrival_us)
    return item


def order_of(scheduler: Scheduler) -> list[int]:
    """Let everybody run, and give the order of dispatch by seq."""
    return [item.seq for item in scheduler.set_window("engine", None, 0).started]


def one_more(scheduler: Scheduler) -> QueuedRequest:
    """Let exactly one more run."""
    (item,) = scheduler.set_window("engine", scheduler.running + 1, 0).started
    return item
