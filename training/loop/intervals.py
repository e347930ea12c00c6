"""How sure the loop's figures are: a bootstrap over requests. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from training.compare.client import Timing

Interval = tuple[float, float]
DoubleArray = npt.NDArray[np.float64]

# Below this share of FCFS's mean the oracle gains nothing that could be shared.
_LEAST_GAIN: Final = 0.01


class Between(msgspec.Struct, frozen=True):
    """95% intervals of one arm's figures; `of_oracle` is None where the oracle is not proved to gain anything."""

    gain_s: Interval
    times_better: Interval
    of_oracle: Interval | None


def intervals(
    runs: Mapping[str, Sequence[Sequence[Timing]]], oracle: str, *, seed: int, rounds: int = 2_000
) -> dict[str, Between]:
    """Per arm, by drawing requests with replacement: the same ones in every arm and pass, whose answers are
    compared one by one. A request that failed anywhere is left out everywhere.

    `runs`: the passes of each arm, `fcfs` and `oracle` among them, each with the same requests in the same order.
    This says how far the figures hang on which requests came. How far the engine's own pace moves them is seen
    from the passes of one arm, which lie apart for no other reason.
    """
    ttft = _by_request(runs)
    rng = np.random.default_rng(seed)
    count = len(ttft["fcfs"])
    if count == 0:
        nothing = Between((np.nan, np.nan), (np.nan, np.nan), None)
        return dict.fromkeys(runs, nothing)
    drawn = rng.integers(0, count, (rounds, count))
    means = {name: values[drawn].mean(axis=1) for name, values in ttft.items()}
    fcfs = means["fcfs"]
    possible = fcfs - means[oracle]
    shared = _middle(possible / fcfs)[0] > _LEAST_GAIN
    return {
        name: Between(
            gain_s=_middle(fcfs - mean),
            times_better=_middle(fcfs / np.maximum(mean, 1e-9)),
            of_oracle=_middle((fcfs - mean) / possible) if shared else None,
        )
        for name, mean in means.items()
    }


def _middle(values: DoubleArray) -> Interval:
    """What 95% of the values lie in."""
    return float(np.percentile(values, 2.5)), float(np.percentile(values, 97.5))


def _by_request(runs: Mapping[str, Sequence[Sequence[Timing]]]) -> dict[str, DoubleArray]:
    """Each arm's TTFT of each request that was answered in every pass of every arm, averaged over its passes."""
    answered = np.all([[one.ok for one in run] for passes in runs.values() for run in passes], axis=0)
    return {
        name: np.array([[one.ttft_s for one in run] for run in passes]).mean(axis=0)[answered]
        for name, passes in runs.items()
    }
