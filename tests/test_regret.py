"""What an order is worth in a queue: one fixed replay in which no wait is negative and no slot idles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.regret import mean_wait, share_of_oracle_gain

jobs = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 1.5, 4.0, 9.0]), st.floats(0.1, 5), st.sampled_from([0.0, 1.0, 2.0])
    ),
    min_size=1,
    max_size=14,
)


def simulated(rows: list[tuple[float, float, float]], slots: int) -> float:
    """The same queue in small steps of events: at each arrival or end, free slots take the lowest priority."""
    waiting = sorted(range(len(rows)), key=lambda row: rows[row][0])
    started: dict[int, float] = {}
    times = [arrival for arrival, _, _ in rows]
    while len(started) < len(rows):
        now = min(times)
        times = [time for time in times if time > now]
        busy = sum(start <= now < start + rows[row][1] for row, start in started.items())
        for _ in range(slots - busy):
            here = [row for row in waiting if rows[row][0] <= now]
            if not here:
                break
            chosen = min(here, key=lambda row: (rows[row][2], rows[row][0], row))
            waiting.remove(chosen)
            started[chosen] = now
            times.append(now + rows[chosen][1])
    return sum(start - rows[row][0] for row, start in started.items()) / len(rows)


@given(jobs, st.integers(1, 3))
def test_the_queue_is_the_queue(rows: list[tuple[float, float, float]], slots: int) -> None:
    """Equal arrivals, idle slots, any priorities: the mean wait is that of a simulation by events."""
    rows = sorted(rows, key=lambda row: row[0])
    arrival, service, priority = (np.array(column) for column in zip(*rows, strict=True))
    ours = mean_wait(arrival, service, priority, slots)
    assert ours >= 0
    assert ours == pytest.approx(simulated(rows, slots), abs=1e-6)


@given(jobs)
def test_with_a_slot_for_everybody_nobody_waits(rows: list[tuple[float, float, float]]) -> None:
    """Whatever the order."""
    arrival, service, priority = (np.array(column) for column in zip(*sorted(rows), strict=True))
    assert mean_wait(arrival, service, priority, slots=len(rows)) == 0


def test_the_share_is_one_for_the_oracle_and_none_where_nothing_can_be_gained() -> None:
    """The true order gains all, its reverse less than nothing, no order nothing; equal lengths leave no gain."""
    rng = np.random.default_rng(0)
    label = np.exp(rng.normal(4, 1.2, size=400))
    assert share_of_oracle_gain(label, label) == 1
    assert share_of_oracle_gain(label, np.zeros(400)) == pytest.approx(0)
    reverse, noisy = (share_of_oracle_gain(label, s) for s in (-label, label * np.exp(rng.normal(size=400))))
    assert reverse is not None
    assert noisy is not None
    assert reverse < 0 < noisy < 1
    assert share_of_oracle_gain(np.full(50, 8.0), rng.normal(size=50)) is None
    assert share_of_oracle_gain(np.zeros(50), rng.normal(size=50)) is None


def test_the_replay_is_the_same_for_every_ranker() -> None:
    """The same arrivals and rows by seed: two rankers are compared on one queue; the scale means nothing."""
    label, score = np.arange(1.0, 100.0), np.arange(99.0)[::-1] % 7
    assert share_of_oracle_gain(label, score) == share_of_oracle_gain(label, score * 10 - 3)
    assert share_of_oracle_gain(label, score, seed=1) != share_of_oracle_gain(label, score)
