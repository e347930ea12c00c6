"""When requests arrive: recorded times scaled to a load, or drawn from a process; pure, the generator is given."""

from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]

# Real arrivals are burstier than Poisson; BurstGPT and ServeGen fit Gamma intervals with about this CV.
_GAMMA_CV: Final = 2.0
# A surge: half of all requests come in it, a quarter before and a quarter after, at this load.
_CALM_LOAD: Final = 0.7
_BEFORE: Final = 0.25
_DURING: Final = 0.5


class Arrivals(StrEnum):
    """How requests arrive. `trace` needs recorded times."""

    TRACE = "trace"
    POISSON = "poisson"
    GAMMA = "gamma"
    SURGE = "surge"
    BURST = "burst"
    CLOSED = "closed"


def trace_arrivals(at_s: DoubleArray, per_s: float) -> DoubleArray:
    """Recorded times from zero, stretched or squeezed to `per_s` arrivals a second in the mean."""
    since = at_s - at_s[0]
    stretch = len(since) / per_s / max(float(since[-1]), 1e-9)
    return np.asarray(since * stretch, dtype=np.float64)


def poisson_arrivals(count: int, per_s: float, rng: np.random.Generator) -> DoubleArray:
    """`count` arrivals at a constant rate, independent of each other."""
    return np.cumsum(rng.exponential(1 / per_s, count))


def gamma_arrivals(count: int, per_s: float, rng: np.random.Generator) -> DoubleArray:
    """Gamma intervals with a coefficient of variation of 2: clumps and gaps."""
    shape = 1 / _GAMMA_CV**2
    return np.cumsum(rng.gamma(shape, 1 / (per_s * shape), count))


def surge_arrivals(count: int, capacity_per_s: float, load: float, rng: np.random.Generator) -> DoubleArray:
    """Poisson at a calm 0.7 of the capacity, then at `load` for half of the requests, then calm again."""
    place = np.arange(count) / max(1, count)
    in_surge = (place >= _BEFORE) & (place < _BEFORE + _DURING)
    return np.cumsum(rng.exponential(1, count) / (capacity_per_s * np.where(in_surge, load, _CALM_LOAD)))


def burst_arrivals(count: int) -> DoubleArray:
    """All at once."""
    return np.zeros(count)


def draw_arrivals(
    kind: Arrivals,
    count: int,
    *,
    load: float,
    capacity_per_s: float,
    rng: np.random.Generator,
    recorded_s: DoubleArray | None = None,
) -> DoubleArray:
    """Arrival times in seconds (count,), at `load` times the capacity. ValueError for a closed loop.

    In a closed loop times follow from the answers, see `training.replay.simulate`.
    """
    match kind:
        case Arrivals.TRACE if recorded_s is not None:
            return trace_arrivals(recorded_s[:count], load * capacity_per_s)
        case Arrivals.POISSON:
            return poisson_arrivals(count, load * capacity_per_s, rng)
        case Arrivals.GAMMA:
            return gamma_arrivals(count, load * capacity_per_s, rng)
        case Arrivals.SURGE:
            return surge_arrivals(count, capacity_per_s, load, rng)
        case Arrivals.BURST:
            return burst_arrivals(count)
        case _:
            raise ValueError(f"{kind}: no times can be drawn for this kind of arrivals from this source")


def peak_load(at_s: DoubleArray, capacity_per_s: float, window_s: float = 60.0) -> float:
    """The highest load over any window that begins with an arrival; at least 1, for it bounds a wait."""
    upto = np.searchsorted(at_s, at_s + window_s, side="right")
    most = int((upto - np.arange(len(at_s))).max())
    return max(1.0, most / (capacity_per_s * window_s))
