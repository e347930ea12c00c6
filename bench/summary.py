"""From samples to figures: percentiles, medians over rounds, ratios within a round, where drift cancels."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Self

import msgspec

from bench.load import Sample


class Spread(msgspec.Struct, frozen=True):
    """A figure of several rounds: its median and its extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises ValueError for no values."""
        if not values:
            raise ValueError("no round was measured")
        return cls(median(values), min(values), max(values))


class Measurement(msgspec.Struct, frozen=True):
    """One sample of one arm in one round; `cpu_s` is the CPU time that the proxy's process took for it."""

    sample: Sample
    cpu_s: float


Rounds = Sequence[Measurement]


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value with at least `percent` of all at or below it.

    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values")
    ranked = sorted(values)
    rank = -(-len(ranked) * percent // 100)
    return ranked[max(0, int(rank) - 1)]


def p50_s(one: Measurement) -> float:
    """The median time to the whole answer."""
    return percentile(one.sample.e2e_s, 50)


def first_p50_s(one: Measurement) -> float:
    """The median time to the first event."""
    return percentile(one.sample.first_s, 50)


def answers_per_s(one: Measurement) -> float:
    """Throughput in requests."""
    return one.sample.answers / one.sample.wall_s


def events_per_s(one: Measurement) -> float:
    """Throughput in chunks of streams."""
    return one.sample.events / one.sample.wall_s


def cpu_us_per_answer(one: Measurement) -> float:
    """The proxy's CPU time for one request."""
    return one.cpu_s * 1e6 / one.sample.answers


def cpu_us_per_event(one: Measurement) -> float:
    """The proxy's CPU time for one chunk, its share of the request included."""
    return one.cpu_s * 1e6 / one.sample.events


def over_rounds(rounds: Rounds, figure: Callable[[Measurement], float]) -> Spread:
    """A figure's median and extremes over the rounds."""
    return Spread.of([figure(one) for one in rounds])


def pooled(rounds: Rounds, times: Callable[[Sample], list[float]], percent: float) -> float:
    """A percentile over everything that all rounds measured."""
    return percentile([value for one in rounds for value in times(one.sample)], percent)


def added(rounds: Rounds, direct: Rounds, figure: Callable[[Measurement], float]) -> Spread:
    """How much more than direct, round by round."""
    return Spread.of([figure(one) - figure(other) for one, other in zip(rounds, direct, strict=True)])


def added_ratio(
    rounds: Rounds, floor: Rounds, direct: Rounds, figure: Callable[[Measurement], float]
) -> Spread:
    """What an arm adds to direct, as a multiple of what the floor adds, round by round."""
    return Spread.of(
        [
            (figure(one) - figure(straight)) / (figure(thin) - figure(straight))
            for one, thin, straight in zip(rounds, floor, direct, strict=True)
        ]
    )


def ratio(rounds: Rounds, other: Rounds, figure: Callable[[Measurement], float]) -> Spread:
    """A figure as a multiple of another arm's, round by round."""
    return Spread.of([figure(one) / figure(base) for one, base in zip(rounds, other, strict=True)])
