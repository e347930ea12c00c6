"""What each witness concludes from what it sees, one evidence at a time."""

from collections.abc import Iterator

import pytest

from proxy.scheduling.level import Level, Limits, Together
from proxy.scheduling.witness import FirstBytes, Gauges, QueueTimes


@pytest.fixture
def level() -> Level:
    """A level that starts at 8 with a slack of one."""
    return Level(Limits())


def polls(gauges: Gauges, level: Level, *samples: tuple[int, int], at_engine: int) -> Iterator[int]:
    """The window after each poll of (running, waiting), one a second."""
    for second, (running, waiting) in enumerate(samples):
        gauges.polled(waiting, at_engine, second * 1_000_000)
        gauges.judge(running, waiting, 0.5, at_engine)
        yield level.window


def test_a_queue_must_stand_over_several_polls(level: Level) -> None:
    """One poll may fall into a burst of prefills; four in a row with a queue are a full engine."""
    gauges = Gauges(level)
    gauges.sent(8)
    samples = [(2, 6), (3, 5), (4, 4), (8, 1), (4, 4), (4, 4), (3, 5), (4, 4)]
    assert list(polls(gauges, level, *samples, at_engine=8)) == [8, 8, 8, 8, 8, 8, 8, 5]


def test_a_slack_that_partly_runs_raises_the_capacity(level: Level) -> None:
    """More running than the capacity believed in, though some wait, is a larger capacity."""
    gauges = Gauges(level)
    gauges.sent(9)
    level.settle(6)
    assert list(polls(gauges, level, (6, 1), (8, 1), at_engine=9)) == [7, 9]


def test_what_is_not_seen_to_run_opens_nothing(level: Level) -> None:
    """Old gauges, a window not in use or a full cache are no reason to send more; a used window is."""
    gauges = Gauges(level)
    gauges.judge(3, 0, 0.5, at_engine=8)
    gauges.judge(8, 0, 0.5, at_engine=3)
    gauges.judge(8, 0, 0.97, at_engine=8)
    assert level.window == 8
    gauges.judge(8, 0, 0.5, at_engine=8)
    assert level.window == 16


def test_others_requests_are_not_ours(level: Level) -> None:
    """Of a full engine's slots only our share counts: what we had there over all that is there."""
    gauges = Gauges(level)
    gauges.sent(8)
    assert list(polls(gauges, level, *[(16, 16)] * 4, at_engine=8)) == [8, 8, 8, 5]


def test_begun_streams_open_and_pending_ones_close(level: Level) -> None:
    """Twice what has begun may be there; no new high though streams pend settles on the highest."""
    first_bytes = FirstBytes(level)
    for _ in range(10):
        first_bytes.sent(0)
    for _ in range(6):
        first_bytes.began(10_000)
        first_bytes.judge(10, 10_000)
    assert level.window == 12
    first_bytes.check(10, 60_000)
    assert level.opening
    first_bytes.check(10, 80_000)
    assert (level.opening, level.window) == (False, 7)


def test_queue_times_are_read_by_littles_law(level: Level) -> None:
    """Ten answers a second that waited 0.6 s each, among eight: six waited at a time and two ran."""
    queue_times = QueueTimes(level)
    for answer in range(1, 9):
        queue_times.ended()
        now_us = answer * 100_000
        queue_times.judge(620_000, 8, 0, now_us, may_settle=True)
    assert (level.opening, level.window) == (False, 3)


def test_answers_sent_before_the_window_changed_say_nothing(level: Level) -> None:
    """What was sent under another window is no evidence about this one."""
    queue_times = QueueTimes(level)
    level.settle(20)
    for answer in range(100):
        queue_times.ended()
        queue_times.judge(0, 20, 0, 1_000_000 + answer, may_settle=True)
    assert level.window == 21


def test_opening_doubles_and_later_steps_double(level: Level) -> None:
    """While opening the window doubles; once settled it is tried by one slack, then two, four, eight."""
    level.widen()
    assert level.window == 16
    level.settle(16)
    windows = []
    for _ in range(4):
        level.widen()
        windows.append(level.window)
    assert windows == [18, 20, 24, 32]


def test_slack_grows_with_the_rate_of_answers(level: Level) -> None:
    """A hundred answers a second end two within a turn-around of 20 ms: two, two deviations and the spare."""
    level.capacity = 100
    level.stayed(1_000_000, 0.0)
    level.settle(100)
    assert level.slack == 5
    assert level.window == 105


def test_slack_grows_with_how_many_end_together(level: Level) -> None:
    """Four that began together and are as long end together; so many must be waiting, but no more than run at all."""
    together = Together(20_000)
    for step in range(100):
        for place in range(4):
            together.ended(step * 1_000_000 + place * 1_000)
    assert 3 < together.count < 5
    level.capacity = 16
    level.stayed(4_000_000, together.count)
    assert level.slack == 4
    level.stayed(4_000_000, 50.0)
    assert level.slack == 17


def test_ends_far_apart_are_not_together() -> None:
    """One answer at a time needs nothing beyond the spare."""
    together = Together(20_000)
    for step in range(100):
        together.ended(step * 30_000)
    assert together.count == 0
