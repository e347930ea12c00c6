"""The figures of one run, and what they are worth beside first come, first served and beside the oracle."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from training.profiles import EngineProfile
from training.replay.simulate import Jobs, Run

DoubleArray = npt.NDArray[np.float64]

_QUARTILES: Final = 4


class Spread(msgspec.Struct, frozen=True):
    """A distribution in five numbers."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: DoubleArray) -> "Spread":
        """Of at least one value."""
        p50, p90, p99 = np.quantile(values, (0.5, 0.9, 0.99))
        return cls(float(values.mean()), float(p50), float(p90), float(p99), float(values.max()))


class Figures(msgspec.Struct, frozen=True):
    """One policy on one crowd of requests; times in seconds.

    `slowdown`: mean of E2E over E2E alone on the engine, by quartile of true length. `extra_delay_s`: the most
    that any one request's first token came later than under FCFS; `overtaken_s`: the most by which a later
    arrival was sent first. `gain_s`: mean TTFT less than under FCFS.
    """

    policy: str
    requests: int
    ttft_s: Spread
    e2e_s: Spread
    wait_s: Spread
    slowdown: tuple[float, ...]
    longest_quartile_e2e_p99_s: float
    inter_token_s: float
    tokens_per_s: float
    preemptions: int
    recomputed_tokens: int
    gain_s: float
    extra_delay_s: float
    overtaken_s: float


def measure(policy: str, run: Run, fcfs: Run, jobs: Jobs, profile: EngineProfile) -> Figures:
    """All figures of `run`, beside `fcfs` on the same arrivals."""
    prompts, outputs = np.array(jobs.prompt_tokens), np.array(jobs.output_tokens)
    slowdown = run.e2e_s / alone_s(profile, prompts, outputs)
    quartile = length_quartiles(outputs)
    many = outputs > 1
    decoding_s = (run.end_s - run.first_token_s)[many] / (outputs[many] - 1)
    return Figures(
        policy=policy,
        requests=len(jobs),
        ttft_s=Spread.of(run.ttft_s),
        e2e_s=Spread.of(run.e2e_s),
        wait_s=Spread.of(run.wait_s),
        slowdown=tuple(float(slowdown[quartile == part].mean()) for part in range(_QUARTILES)),
        longest_quartile_e2e_p99_s=float(np.quantile(run.e2e_s[quartile == _QUARTILES - 1], 0.99)),
        inter_token_s=float(decoding_s.mean()) if many.any() else 0.0,
        tokens_per_s=float(outputs.sum() / (run.end_s.max() - run.arrival_s.min())),
        preemptions=run.preemptions,
        recomputed_tokens=run.recomputed_tokens,
        gain_s=float(fcfs.ttft_s.mean() - run.ttft_s.mean()),
        extra_delay_s=max(0.0, float((run.ttft_s - fcfs.ttft_s).max())),
        overtaken_s=longest_overtaking_s(run),
    )


def longest_overtaking_s(run: Run) -> float:
    """The most by which a request was sent after one that arrived later; 0 where all went in order."""
    arrival_s = run.arrival_s[run.order]
    return float((np.maximum.accumulate(arrival_s) - arrival_s).max())


def length_quartiles(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The quartile, 0 to 3, of each length; ties are split, so that none is empty (four or more rows)."""
    place = np.empty(len(lengths), dtype=np.int64)
    place[np.argsort(lengths, kind="stable")] = np.arange(len(lengths))
    return place * _QUARTILES // len(lengths)


def alone_s(
    profile: EngineProfile, prompts: npt.NDArray[np.int64], outputs: npt.NDArray[np.int64]
) -> DoubleArray:
    """E2E of requests that have the engine to themselves, after the engine model's costs."""
    budget = profile.max_num_batched_tokens
    chunks = -(-prompts // budget)
    # A chunk attends to all before it and to itself.
    prefill_context = (chunks - 1) * chunks // 2 * budget + prompts
    decodes = outputs - 1
    decode_context = decodes * prompts + decodes * (decodes - 1) // 2
    return np.asarray(
        profile.base_s * (chunks + decodes)
        + profile.prefill_token_s * prompts
        + profile.decode_sequence_s * decodes
        + profile.kv_token_s * (prefill_context + decode_context),
        dtype=np.float64,
    )


def best_gain_within(ladder: Sequence[Figures], ttft_p99_s: float) -> float | None:
    """The best gain with a p99 TTFT no worse, read off straight lines between the runs; None below them all."""
    rungs = sorted((one.ttft_s.p99, one.gain_s) for one in ladder)
    p99_s = np.array([rung[0] for rung in rungs])
    most_s = np.maximum.accumulate([rung[1] for rung in rungs])
    return None if ttft_p99_s < p99_s[0] else float(np.interp(ttft_p99_s, p99_s, most_s))
