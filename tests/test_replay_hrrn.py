"""Highest response ratio next, as its name says."""

from hypothesis import given
from hypothesis import strategies as st

from predictor.prediction import Prediction
from proxy.scheduling.queued import QueuedRequest
from training.replay.hrrn import HrrnQueue


def request(seq: int, arrival_us: int, tokens: float) -> QueuedRequest:
    """A request that is predicted to take `tokens` seconds."""
    return QueuedRequest(seq, "", arrival_us, Prediction(0.5, tokens, tokens, tokens))


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 500)), min_size=1, max_size=30))
def test_each_dispatch_goes_to_the_highest_ratio(rows: list[tuple[int, int]]) -> None:
    """Whoever has waited the most multiples of its own time goes next, at each moment anew."""
    queue = HrrnQueue([1], 0.0, 1.0, len(rows) + 1)
    (running,) = queue.submit(request(-1, 0, 1.0), 0).started
    waiting = {}
    for number, (arrival_us, tokens) in enumerate(sorted(rows)):
        waiting[number] = request(number, arrival_us, tokens)
        assert not queue.submit(waiting[number], arrival_us).started
    now_us = 10**7
    while waiting:
        now_us += 1_000_000
        (started,) = queue.finish(running, now_us).started
        ratios = {
            number: (now_us - one.arrival_us) / one.prediction.tokens for number, one in waiting.items()
        }
        assert ratios[started.seq] >= 0.999 * max(ratios.values())
        running = waiting.pop(started.seq)
    assert not queue.finish(running, now_us).started


def test_room_is_used_at_once_and_on_the_freest_engine() -> None:
    """Two engines with one place each take two requests; a third waits."""
    queue = HrrnQueue([1, 1], 0.0, 1.0, 3)
    started = [queue.submit(request(number, 0, 5.0), 0).started for number in range(3)]
    assert [len(one) for one in started] == [1, 1, 0]
    assert {started[0][0].replica, started[1][0].replica} == {"0", "1"}
