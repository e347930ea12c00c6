"""One crowd of requests and everything that policies are made from: arms on the same arrivals, FCFS first."""

from functools import cached_property
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from proxy.scheduling.policy import MICROSECONDS, Boost, Fcfs, Policy, boost_at, make_policy
from training.profiles import EngineProfile
from training.replay.guarded import GuardedQueue
from training.replay.hrrn import HrrnQueue
from training.replay.measures import Figures, measure
from training.replay.predictions import Ranked, oracle, places
from training.replay.simulate import Jobs, Pool, Queue, Run, scheduler, simulate
from training.replay.work import fit_work, work_of
from training.replay.workload import Workload

# `work` is `quantile`, and `work-sjf` is `sjf`, on the whole predicted work, prompt included; `guarded` and
# `work-guarded` are `quantile` and `work` under the proxy's guardrail.
POLICIES: Final = ("fcfs", "sjf", "work-sjf", "hrrn", "boost", "quantile", "work", "guarded", "work-guarded")
# A second of work as tokens, so that sjf's key keeps microseconds apart.
_TOKENS_PER_WORK_S: Final = 1_000.0
# What the scheduler calls these.
_SERVED_AS: Final = {"work-sjf": "sjf", "guarded": "quantile", "work-guarded": "work"}
ORACLE: Final = "oracle-"
DoubleArray = npt.NDArray[np.float64]

# Boost: the size that just gets the whole boost, and the one that gets none, as quantiles of predicted sizes.
_BOOST_ENDS: Final = (0.01, 0.99)
_SATURATING: Final = 12
_WARM_UP: Final = 0.2


class Knobs(msgspec.Struct, frozen=True):
    """What an operator can turn: D in seconds, and the share of dispatches that go to the oldest waiter."""

    max_overtake_s: float
    lane_share: float = 0.0


class Scene:
    """Jobs, engines and predictions; `figures` plays one policy. All arms see the same arrivals."""

    def __init__(self, pool: Pool, jobs: Jobs, ranked: Ranked, *, hybrid: bool = True) -> None:
        """`hybrid`: keys go along as the engine's priorities; otherwise the proxy alone orders."""
        self.pool = pool
        self.jobs = jobs
        self.ranked = ranked
        self._hybrid = hybrid
        self._oracle = oracle(np.array(jobs.output_tokens, dtype=np.float64))

    @cached_property
    def fcfs(self) -> Run:
        """First come, first served; the same as the engines without a proxy."""
        pool = msgspec.structs.replace(self.pool, by_key=False)
        return simulate(pool, self.jobs, self._oracle.predictions(), scheduler(Fcfs(), pool))

    @cached_property
    def fcfs_figures(self) -> Figures:
        """FCFS beside itself."""
        return measure("fcfs", self.fcfs, self.fcfs, self.jobs, self.pool.profile)

    def figures(self, name: str, knobs: Knobs, ranked: Ranked | None = None) -> Figures:
        """Play one policy, by default with this scene's predictions; `oracle-…` with true lengths."""
        if name in ("fcfs", ORACLE + "fcfs"):
            return msgspec.structs.replace(self.fcfs_figures, policy=name)
        run = self.run(name, knobs, ranked)
        return measure(name, run, self.fcfs, self.jobs, self.pool.profile)

    def run(self, name: str, knobs: Knobs, ranked: Ranked | None = None) -> Run:
        """What came of each request under one policy."""
        known = self._oracle if name.startswith(ORACLE) else ranked or self.ranked
        if name.removeprefix(ORACLE).startswith("work"):
            known = by_work(known, self.pool.profile, self.jobs)
        if name.endswith("work-sjf"):
            known = self._as_tokens(known)
        queue, pool = self._queue(name.removeprefix(ORACLE), known, knobs)
        return simulate(pool, self.jobs, known.predictions(), queue)

    def _as_tokens(self, known: Ranked) -> Ranked:
        """Work where `sjf` reads tokens."""
        scale = fit_work(self.pool.profile, *sizes(self.jobs))
        work_s = work_of(scale, sizes(self.jobs)[0], known.tokens)
        return msgspec.structs.replace(known, tokens=work_s * _TOKENS_PER_WORK_S)

    def _queue(self, name: str, known: Ranked, knobs: Knobs) -> tuple[Queue, Pool]:
        profile = self.pool.profile
        if name == "hrrn":
            held = msgspec.structs.replace(self.pool, by_key=False)
            costs = (profile.prefill_token_s, token_s(profile, self.jobs))
            return HrrnQueue(held.windows, *costs, len(self.jobs)), held
        pool = msgspec.structs.replace(self.pool, by_key=self._hybrid)
        policy = self._policy(name, known, knobs.max_overtake_s)
        queue = scheduler(policy, pool, knobs.lane_share)
        return GuardedQueue(queue, policy) if name.endswith("guarded") else queue, pool

    def _policy(self, name: str, known: Ranked, max_overtake_s: float) -> Policy:
        if name == "boost":
            return fitted_boost(known, token_s(self.pool.profile, self.jobs), max_overtake_s)
        return make_policy(_SERVED_AS.get(name, name), max_overtake_s)


def fitted_boost(known: Ranked, per_token_s: float, max_overtake_s: float) -> Policy:
    """Boost whose gamma lets the shortest predicted hundredth, and nobody else, reach D; FCFS for D = 0."""
    ends = np.maximum(np.quantile(known.tokens, _BOOST_ENDS), 1.0) * per_token_s
    shortest_s, longest_s = (float(end) for end in ends)
    if max_overtake_s <= 0 or longest_s <= shortest_s:
        return Fcfs()
    low, high = 1e-9, 1e3
    for _ in range(80):
        middle = (low * high) ** 0.5
        if boost_at(shortest_s, middle) - boost_at(longest_s, middle) > max_overtake_s:
            low = middle
        else:
            high = middle
    return Boost(round(max_overtake_s * MICROSECONDS), high, per_token_s, longest_s)


def by_work(known: Ranked, profile: EngineProfile, jobs: Jobs) -> Ranked:
    """The same predictions with places of engine time: the prompt's, and the answer's share of a full batch."""
    prompts, _ = sizes(jobs)
    work_s = work_of(fit_work(profile, prompts, known.tokens), prompts, known.tokens)
    return msgspec.structs.replace(known, work=places(work_s))


def sizes(jobs: Jobs) -> tuple[DoubleArray, DoubleArray]:
    """Prompt and output tokens (n,), (n,)."""
    return np.array(jobs.prompt_tokens, dtype=np.float64), np.array(jobs.output_tokens, dtype=np.float64)


def token_s(profile: EngineProfile, jobs: Jobs) -> float:
    """Seconds per output token with every slot in use."""
    context = np.mean(jobs.prompt_tokens) + np.mean(jobs.output_tokens) / 2
    per_sequence_s = profile.decode_sequence_s + profile.kv_token_s * float(context)
    return profile.base_s + profile.max_num_seqs * per_sequence_s


def capacity_per_s(pool: Pool, workload: Workload, rng: np.random.Generator) -> float:
    """Requests per second that the engines end of this very mix while more are always waiting."""
    slots = sum(min(window, pool.profile.max_num_seqs) for window in pool.windows)
    many = workload.sized(max(len(workload), _SATURATING * slots), repeat=True, rng=rng)
    jobs = jobs_of(many, np.zeros(len(many)))
    known = oracle(many.output_tokens.astype(np.float64))
    run = simulate(pool, jobs, known.predictions(), scheduler(Fcfs(), pool))
    ends = np.sort(run.end_s)
    # From when the first wave has spread out to when the last request found a slot.
    first = int(len(ends) * _WARM_UP)
    last = int(np.searchsorted(ends, run.started_s.max()))
    return (last - first) / float(ends[last] - ends[first])


def jobs_of(workload: Workload, at_s: np.typing.NDArray[np.float64], clients: int = 0) -> Jobs:
    """A workload with arrival times, in whole microseconds as the scheduler counts them."""
    return Jobs(
        prompt_tokens=[item.prompt_tokens for item in workload.items],
        output_tokens=[item.output_tokens for item in workload.items],
        at_us=[] if clients else np.round(at_s * MICROSECONDS).astype(np.int64).tolist(),
        clients=clients,
    )
