"""Arrival processes: the rate and the shape that their names promise."""

import numpy as np
import pytest

from training.replay.arrivals import Arrivals, draw_arrivals, peak_load

COUNT = 20_000


def drawn(kind: Arrivals, load: float = 0.8, recorded_s: np.ndarray | None = None) -> np.ndarray:
    """Arrivals at a capacity of 10 a second."""
    rng = np.random.default_rng(7)
    return draw_arrivals(kind, COUNT, load=load, capacity_per_s=10.0, rng=rng, recorded_s=recorded_s)


@pytest.mark.parametrize("kind", [Arrivals.POISSON, Arrivals.GAMMA])
def test_the_mean_rate_is_the_load_times_the_capacity(kind: Arrivals) -> None:
    """20,000 arrivals at 8 a second take 2,500 seconds, within a few percent."""
    assert drawn(kind)[-1] == pytest.approx(COUNT / 8, rel=0.05)


def test_intervals_vary_as_much_as_the_process_says() -> None:
    """The coefficient of variation is 1 for Poisson and 2 for Gamma."""
    for kind, expected in ((Arrivals.POISSON, 1.0), (Arrivals.GAMMA, 2.0)):
        gaps = np.diff(drawn(kind))
        assert gaps.std() / gaps.mean() == pytest.approx(expected, rel=0.05)


def test_a_surge_is_calm_before_and_after() -> None:
    """The middle half comes at the load that was asked for, the rest at 0.7 of the capacity."""
    at_s = drawn(Arrivals.SURGE, load=1.2)
    rates = [len(part) / (part[-1] - part[0]) for part in np.split(at_s, 4)]
    assert rates == pytest.approx([7, 12, 12, 7], rel=0.05)


def test_a_trace_keeps_its_pattern_at_another_rate() -> None:
    """Recorded times are scaled as a whole: every gap by the same factor, from zero."""
    recorded_s = 100 + np.cumsum(np.random.default_rng(1).pareto(2.0, COUNT))
    at_s = drawn(Arrivals.TRACE, recorded_s=recorded_s)
    assert at_s[0] == 0
    assert at_s[-1] == pytest.approx(COUNT / 8)
    assert np.diff(at_s) / np.diff(recorded_s) == pytest.approx(at_s[-1] / (recorded_s[-1] - recorded_s[0]))


def test_a_trace_without_times_is_an_error() -> None:
    """Nothing is made up where nothing was recorded."""
    with pytest.raises(ValueError, match="trace"):
        drawn(Arrivals.TRACE)


def test_the_peak_load_is_that_of_the_busiest_minute() -> None:
    """600 arrivals within a minute at a capacity of 5 a second are twice the load; calm counts as 1."""
    calm = np.arange(0, 600, 1.0)
    busy = np.sort(np.concatenate([calm, 300 + np.linspace(0, 59, 540)]))
    assert peak_load(busy, 5.0) == pytest.approx(2.0, rel=0.01)
    assert peak_load(calm, 5.0) == 1.0
