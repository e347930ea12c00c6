"""The waiting queue's promise: two orders at once, and no trace of those who have left."""

from collections import deque

from predictor.prediction import Prediction
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
