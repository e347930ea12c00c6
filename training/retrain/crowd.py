"""The held-out requests as a crowd to replay: one draw of arrivals, under which every ranker is played."""

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from predictor.order import Order
from predictor.prediction import Prediction
from predictor.records import TrafficRecord
from training.profiles import EngineProfile
from training.ranking_metrics import kendall_tau_b
from training.replay.arrivals import gamma_arrivals, peak_load
from training.replay.outlook import Advance, Setting, default_overtake_s
from training.replay.predictions import Distortion, Ranked, distorted
from training.replay.scene import Knobs, Scene, capacity_per_s, jobs_of, sizes
from training.replay.simulate import Pool
from training.replay.tune import Grid, Limits, Tuning, tune
from training.replay.verdict import logged_wait
from training.replay.work import fit_work
from training.replay.workload import Item, Workload
from training.sources import DataError

DoubleArray = npt.NDArray[np.float64]

# Somewhat more than the engine can serve, in clumps: where an order is of use, and where it can do harm.
LOAD: Final = 1.1
# Fewer fill a large engine without a queue, and then no order gains anything.
_FEWEST_PER_SLOT: Final = 12
# A smaller grid than `headway replay --tune`'s: this runs beside a serving proxy.
_GRID: Final = Grid(multiples=(1 / 4, 1.0, 2.0), lanes=(0.0, 0.25, 0.5))


class Crowd:
    """`requests` draws from the held-out ones, more where the engine has many slots; the same arrivals for whoever
    ranks them."""

    def __init__(
        self, records: Sequence[TrafficRecord], profile: EngineProfile, requests: int, seed: int
    ) -> None:
        """Raises DataError where no request fits into the profile's engine."""
        self._pool = Pool(profile)
        self._seed = seed
        self._records = records
        fits = [place for place, one in enumerate(records) if _tokens(one) <= _most(profile)]
        if not fits:
            raise DataError(f"no held-out request fits into {profile.name} ({_most(profile)} tokens)")
        requests = max(requests, _FEWEST_PER_SLOT * profile.max_num_seqs)
        self._drawn = np.random.default_rng(seed).choice(fits, requests)
        items = [_item(records[place]) for place in self._drawn]
        workload = Workload("the traffic log", items)
        self._capacity_per_s = capacity_per_s(self._pool, workload, np.random.default_rng(seed))
        self._at_s = gamma_arrivals(requests, LOAD * self._capacity_per_s, np.random.default_rng(seed))
        self._jobs = jobs_of(workload, self._at_s)

    def scene(self, predicted: Sequence[Prediction], by: str) -> Scene:
        """The crowd as one ranker sees it; `predicted` are of the held-out requests, in their order."""
        quantile = np.array([one.quantile for one in predicted])[self._drawn]
        tokens = np.array([one.tokens for one in predicted])[self._drawn]
        lengths = sizes(self._jobs)[1]
        return Scene(self._pool, self._jobs, Ranked(quantile, tokens, by, kendall_tau_b(lengths, quantile)))

    def tune(self, scene: Scene, extra_delay_s: float | None, advance: Advance) -> Tuning:
        """Policy, D and lane share within the operator's limit; by default p99 of the wait under FCFS."""
        lengths = sizes(self._jobs)[1]
        reverse = distorted(scene.ranked, lengths, Distortion.REVERSED, np.random.default_rng(self._seed))
        fcfs = scene.fcfs_figures
        limits = Limits(fcfs.wait_s.p99 if extra_delay_s is None else extra_delay_s)
        start_s = default_overtake_s(fcfs, self._peak, extra_delay_s)
        waits = logged_wait((one.queue_s, one.e2e_s) for one in self._records if one.mode != "engine")
        setting = Setting("gamma", LOAD, self._capacity_per_s, self._peak, waits)
        return tune(scene, reverse, setting, start_s=start_s, limits=limits, advance=advance, grid=_GRID)

    def order(self, tuning: Tuning, predicted: Sequence[Prediction], characters: DoubleArray) -> Order:
        """What goes into the artifact; `characters` are the prompts' (n,), as the features count them."""
        prompts = np.array([one.prompt_tokens or 0 for one in self._records], dtype=np.float64)
        tokens = np.array([one.tokens for one in predicted])
        return Order(
            policy=tuning.policy,
            max_overtake_s=round(tuning.choice.max_overtake_s, 3),
            lane_share=tuning.choice.lane_share,
            work=fit_work(self._pool.profile, prompts, tokens, _tokens_per_character(prompts, characters)),
            verdict=tuning.verdict,
        )

    def gain_s(self, scene: Scene, policy: str, max_overtake_s: float) -> float:
        """What a ranker takes off FCFS's mean TTFT with these knobs, without a lane to help it."""
        return scene.figures(policy, Knobs(max_overtake_s)).gain_s

    @property
    def runs_to_tune(self) -> int:
        """How many runs `tune` makes."""
        return _GRID.runs()

    @cached_property
    def _peak(self) -> float:
        return peak_load(self._at_s, self._capacity_per_s)


def _tokens_per_character(prompts: DoubleArray, characters: DoubleArray) -> float:
    """The middle ratio where both are known; a quarter where neither tells."""
    known = (prompts > 0) & (characters > 0)
    return float(np.median(prompts[known] / characters[known])) if known.any() else 0.25


def _item(one: TrafficRecord) -> Item:
    return Item(prompt_tokens=max(1, one.prompt_tokens or 1), output_tokens=max(1, one.output_tokens or 1))


def _tokens(one: TrafficRecord) -> int:
    return max(1, one.prompt_tokens or 1) + max(1, one.output_tokens or 1)


def _most(profile: EngineProfile) -> int:
    return min(profile.max_model_len, profile.num_blocks * profile.block_size)
