"""The engines' speed is that of the requests that are there now, whatever was there before."""

import pytest

from proxy.scheduling.speed import Speed

SECOND_US = 1_000_000


def test_a_quiet_minute_does_not_make_engines_slow() -> None:
    """One at a time, 50 tokens a second each: sixteen side by side are not thought to share one slot's speed."""
    speed = Speed()
    for second in range(60):
        speed.ended(50.0, SECOND_US, second * 2 * SECOND_US)
    assert speed.tokens_per_s(1) == pytest.approx(50.0)
    assert speed.tokens_per_s(16) == pytest.approx(800.0)


def test_answers_slowed_down_by_others_count_as_slow() -> None:
    """What full engines really compute is known a minute later: tokens over stay, times those who are there."""
    speed = Speed()
    speed.ended(50.0, SECOND_US, 0)
    for second in range(1, 300):
        for _ in range(4):
            speed.ended(50.0, 4 * SECOND_US, second * SECOND_US)
    assert speed.tokens_per_s(16) == pytest.approx(16 * 12.5, rel=0.05)


def test_nothing_is_said_of_too_little() -> None:
    """Before a second of answers was seen there is no speed."""
    speed = Speed()
    assert speed.tokens_per_s(4) is None
    speed.ended(50.0, SECOND_US // 2, 0)
    assert speed.tokens_per_s(4) is None
