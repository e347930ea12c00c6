"""How well an order was predicted: Kendall's tau-b, pairwise accuracy, intervals."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats

DoubleArray = npt.NDArray[np.float64]


def kendall_tau_b(label: DoubleArray, score: DoubleArray) -> float:
    """Kendall's tau-b in [-1, 1]; 0 where either side is constant or there are fewer than two rows."""
    if len(label) < 2:
        return 0.0
    tau = float(stats.kendalltau(label, score, variant="b").statistic)
    return tau if np.isfinite(tau) else 0.0


def resampled(
    groups: npt.NDArray[np.str_], rng: np.random.Generator, rounds: int, most: int | None = None
) -> Iterator[npt.NDArray[np.intp]]:
    """Rows of so many draws of groups with replacement, all rows of a group together; about `most` rows each."""
    names, number = np.unique(groups, return_inverse=True)
    order = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[order], np.arange(len(names) + 1))
    members = [order[bounds[i] : bounds[i + 1]] for i in range(len(names))]
    drawn = len(names) if most is None else max(1, round(len(names) * min(1.0, most / len(groups))))
    for _ in range(rounds):
        yield np.concatenate([members[pick] for pick in rng.integers(0, len(names), drawn)])


def bootstrap_interval(
    label: DoubleArray,
    score: DoubleArray,
    groups: npt.NDArray[np.str_],
    rng: np.random.Generator,
    rounds: int = 200,
) -> tuple[float, float]:
    """95% interval of tau-b by resampling prompts (all rows of a prompt together)."""
    taus = [kendall_tau_b(label[rows], score[rows]) for rows in resampled(groups, rng, rounds)]
    low, high = np.percentile(taus, [2.5, 97.5])
    return float(low), float(high)


def pairwise_accuracy(
    label: DoubleArray, score: DoubleArray, rng: np.random.Generator, pairs: int = 200_000
) -> float:
    """Share of pairs with different labels that the score puts in the right order; a tied score counts half."""
    if len(label) < 2:
        return 0.5
    left = rng.integers(0, len(label), pairs)
    right = rng.integers(0, len(label), pairs)
    sign = np.sign(label[left] - label[right])
    differ = sign != 0
    if not differ.any():
        return 0.5
    agreement = sign[differ] * np.sign(score[left] - score[right])[differ]
    return float(np.mean((agreement + 1) / 2))
