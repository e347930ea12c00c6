"""The waiting queue's promise: two orders at once, and no trace of those who have left."""

from collections import deque

from scheduling import D_US, one_engine, submit

from predictor.prediction import Prediction
from proxy.scheduling.policy import Quantile
from proxy.scheduling.queued import QueuedRequest, State
from proxy.scheduling.waiting import WaitingQueue


def waiter(seq: int) -> QueuedRequest:
    return QueuedRequest(seq, f"r{seq}", seq, Prediction(0.5, 10, 5, 20), key_us=seq)


def test_a_short_queue_keeps_nobody_who_was_sent_long_ago() -> None:
    """However many pass through a queue of four, and whether anybody asks for the oldest or not, it stays small."""
    waiting = WaitingQueue()
    here: deque[QueuedRequest] = deque()
    for seq in range(5_000):
        here.append(waiter(seq))
        waiting.add(here[-1])
        if len(here) > 4:
            assert waiting.first() is here[0]
            waiting.remove(here.popleft(), State.RUNNING)
    assert len(waiting._by_arrival) + len(waiting._by_key) < 200
    assert waiting.oldest() is here[0]


def test_cancelled_crowds_leave_no_trace() -> None:
    """Ten thousand requests that came and went leave a queue as small as an empty one."""
    scheduler = one_engine(Quantile(D_US))
    items = [submit(scheduler, seq, seq, 0.5) for seq in range(10_000)]
    for item in items[1:]:
        scheduler.cancel(item, 0)
    (tenant,) = scheduler.tiers[0].queue
    assert scheduler.waiting == 1
    assert len(tenant.waiting._by_key) < 100
    scheduler.cancel(items[0], 0)
    assert not list(scheduler.tiers[0].queue)
