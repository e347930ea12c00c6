"""Tenants and arrivals for lengths files that have neither, so that a ranker learns what history is worth.

Nothing is known of who sent a row, so it is drawn: each simulated tenant has its own mixture of kinds of request
(the file's parts, each split into thirds by length), as applications differ in ways that their prompts do not
show, and each row goes to a tenant in proportion to how much of that kind the tenant sends. Files hold each prompt
once, applications repeat theirs: some rows are given earlier answers, scattered as a model's samples are.
"""

import heapq
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from predictor.features.schema import FloatArray
from predictor.history import HISTORY_NAMES, History, HistoryKey

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_ROWS_PER_TENANT: Final = 60
_MAX_TENANTS: Final = 200
# Parameter of the Dirichlet that a tenant's mixture is drawn from: 1 is every mixture alike.
_EVENNESS: Final = 1.0
_THIRDS: Final = 3
_TOKEN_S: Final = 0.02
_CONCURRENCY: Final = 32
_REPEATED_SHARE: Final = 0.25
_MOST_REPEATS: Final = 8
# Standard deviation of log length between two samples of one prompt: then tau-b between the two is 0.6 to 0.7, as
# has been measured of chat models.
_SAMPLE_SPREAD: Final = 0.4


class Arrivals(NamedTuple):
    """When each row arrives and finishes, seconds."""

    arrival_s: DoubleArray
    finish_s: DoubleArray


def assign_tenants(part: npt.NDArray[np.str_], label: DoubleArray, rng: np.random.Generator) -> list[str]:
    """A tenant's name for each row."""
    cell = _kinds(part, label)
    kinds = int(cell.max()) + 1
    tenants = int(np.clip(len(label) // _ROWS_PER_TENANT, 2, _MAX_TENANTS))
    popularity = 1 / np.arange(1, tenants + 1)
    weight = rng.dirichlet(np.full(kinds, _EVENNESS), size=tenants) * popularity[:, None]
    share = np.cumsum(weight / weight.sum(axis=0), axis=0)
    draws = rng.random(len(label))
    return [
        f"simulated-{int(np.searchsorted(share[:, kind], draw))}"
        for kind, draw in zip(cell, draws, strict=True)
    ]


def _kinds(part: npt.NDArray[np.str_], label: DoubleArray) -> npt.NDArray[np.intp]:
    """A number per row for its part and the third of the part's lengths that it falls in."""
    names, number = np.unique(part, return_inverse=True)
    third = np.zeros(len(label), dtype=np.intp)
    for index in range(len(names)):
        rows = np.flatnonzero(number == index)
        place = np.argsort(np.argsort(label[rows], kind="stable"), kind="stable")
        third[rows] = place * _THIRDS // max(1, len(rows))
    return np.asarray(number * _THIRDS + third, dtype=np.intp)


def simulate_arrivals(order: npt.NDArray[np.intp], label: DoubleArray, rng: np.random.Generator) -> Arrivals:
    """Poisson arrivals in the given order of rows, about 32 answers being generated at any time."""
    service = _TOKEN_S * (1 + label)
    gaps = rng.exponential(float(service.mean()) / _CONCURRENCY, size=len(label))
    arrival = np.empty(len(label))
    arrival[order] = np.cumsum(gaps)
    return Arrivals(arrival, arrival + service)


class Repeats(NamedTuple):
    """Earlier answers to some rows' prompts: which row, how long, finished when (before the row arrives)."""

    row: npt.NDArray[np.intp]
    label: DoubleArray
    finish_s: DoubleArray


def simulate_repeats(
    label: DoubleArray, censored: BoolArray, arrivals: Arrivals, rng: np.random.Generator
) -> Repeats:
    """One to eight earlier answers for a quarter of the rows that were not cut."""
    chosen = np.flatnonzero(~censored & (rng.random(len(label)) < _REPEATED_SHARE))
    row = np.repeat(chosen, rng.integers(1, _MOST_REPEATS + 1, len(chosen)))
    scattered = label[row] * np.exp(rng.normal(0, _SAMPLE_SPREAD, len(row)))
    return Repeats(row, scattered, arrivals.arrival_s[row] * rng.random(len(row)))


def replay_history(
    keys: list[HistoryKey],
    label: DoubleArray,
    censored: BoolArray,
    arrivals: Arrivals,
    repeats: Repeats | None = None,
) -> FloatArray:
    """History features (rows, len(HISTORY_NAMES)): each row sees those that finished before it arrived."""
    history = History(max_keys=1_000_000)
    features = np.empty((len(keys), len(HISTORY_NAMES)), dtype=np.float32)
    running: list[tuple[float, int, float]] = []
    if repeats is not None:
        columns = (repeats.finish_s.tolist(), repeats.row.tolist(), repeats.label.tolist())
        running = list(zip(*columns, strict=True))
        heapq.heapify(running)
    for row in np.argsort(arrivals.arrival_s, kind="stable").tolist():
        while running and running[0][0] <= arrivals.arrival_s[row]:
            finished_at, done, tokens = heapq.heappop(running)
            history.observe(keys[done], int(tokens), finished_at)
        features[row] = history.features(keys[row])
        if not censored[row]:
            heapq.heappush(running, (float(arrivals.finish_s[row]), row, float(label[row])))
    return features
