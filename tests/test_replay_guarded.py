"""The guardrail in virtual time: what a reversed ranker costs before it falls, and that nothing is left after."""

import numpy as np
import pytest

from proxy.scheduling.policy import MICROSECONDS, Quantile
from training.profiles import EngineProfile
from training.replay.guarded import GuardedQueue
from training.replay.predictions import Distortion, Ranked, distorted, oracle, synthetic
from training.replay.scene import Knobs, Scene
from training.replay.simulate import Jobs, Pool, scheduler, simulate

PROFILE = EngineProfile(
    name="sixteen",
    base_s=0.02,
    prefill_token_s=0.0,
    decode_sequence_s=0.0,
    kv_token_s=0.0,
    block_size=16,
    num_blocks=100_000,
    max_num_seqs=16,
    max_num_batched_tokens=8_192,
    max_model_len=100_000,
)
OVERTAKE_S = 20.0
LOAD = 1.2


def crowd(count: int, seed: int) -> tuple[Jobs, np.ndarray]:
    """Requests of mixed lengths at 1.2 times what the engine serves."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(1, rng.lognormal(3.2, 1.2, count).round()).astype(int)
    per_s = PROFILE.max_num_seqs / (PROFILE.base_s * lengths.mean())
    at_us = (np.cumsum(rng.exponential(1 / (LOAD * per_s), count)) * MICROSECONDS).astype(int)
    return Jobs([8] * count, lengths.tolist(), at_us.tolist()), lengths.astype(np.float64)


def reverse(lengths: np.ndarray) -> Ranked:
    """The truth, upside down."""
    return distorted(oracle(lengths), lengths, Distortion.REVERSED, np.random.default_rng(1))


@pytest.mark.parametrize("by_key", [False, True])
def test_a_reversed_ranker_costs_little_and_not_for_long(by_key: bool) -> None:
    """With reversed predictions from the first request on, mean TTFT is within 1.1 of first come, first served for
    whoever arrives after the fall, and within 1.5 over all; without the guardrail it is beyond that."""
    jobs, lengths = crowd(1_500, seed=3)
    scene = Scene(Pool(PROFILE), jobs, reverse(lengths), hybrid=by_key)
    fcfs = scene.fcfs.ttft_s
    policy = Quantile(round(OVERTAKE_S * MICROSECONDS))
    pool = Pool(PROFILE, by_key=by_key)
    queue = GuardedQueue(scheduler(policy, pool), policy)
    run = simulate(pool, jobs, scene.ranked.predictions(), queue)
    assert queue.guardrail.fallen
    (fell_us,) = queue.switched_us
    later = np.array(jobs.at_us) > fell_us
    assert later.mean() > 0.8
    assert run.ttft_s[later].mean() <= 1.1 * fcfs[later].mean()
    assert run.ttft_s.mean() <= 1.5 * fcfs.mean()
    unguarded = scene.run("quantile", Knobs(OVERTAKE_S))
    assert unguarded.ttft_s.mean() > 1.1 * fcfs.mean()


@pytest.mark.parametrize("standing", [100, 250])
def test_a_reversed_ranker_costs_at_most_half_as_much_again_at_once(standing: int) -> None:
    """Where the queue stands already when predictions turn out reversed, whoever comes before the fall waits at most
    1.5 times as long as under first come, first served: a handful of answers proves it."""
    jobs, lengths = crowd(250, seed=5)
    jobs = Jobs(jobs.prompt_tokens, jobs.output_tokens, [0] * standing + jobs.at_us[: 250 - standing])
    scene = Scene(Pool(PROFILE), jobs, reverse(lengths))
    policy = Quantile(round(OVERTAKE_S * MICROSECONDS))
    pool = Pool(PROFILE, by_key=True)
    queue = GuardedQueue(scheduler(policy, pool), policy)
    run = simulate(pool, jobs, scene.ranked.predictions(), queue)
    before = np.array(jobs.at_us) <= queue.switched_us[0]
    assert before.sum() >= standing
    assert run.ttft_s[before].mean() <= 1.5 * scene.fcfs.ttft_s[before].mean()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_fair_ranker_keeps_the_order_of_a_crowd(seed: int) -> None:
    """Where 600 stand there and the shortest go first, those that have ended speak against whoever put them there:
    predictions of tau .4 keep the order all the same, request by request."""
    jobs, lengths = crowd(900, seed)
    jobs = Jobs(jobs.prompt_tokens, jobs.output_tokens, [0] * 600 + jobs.at_us[:300])
    scene = Scene(Pool(PROFILE), jobs, synthetic(lengths, 0.4, np.random.default_rng(100 + seed)))
    plain, guarded = (scene.run(name, Knobs(OVERTAKE_S)) for name in ("quantile", "guarded"))
    np.testing.assert_array_equal(plain.order, guarded.order)


def test_true_predictions_are_not_touched() -> None:
    """Where the ranker is right, the guarded order is the same as the plain one, request by request."""
    jobs, lengths = crowd(600, seed=4)
    scene = Scene(Pool(PROFILE), jobs, oracle(lengths))
    plain, guarded = (scene.run(name, Knobs(OVERTAKE_S)) for name in ("quantile", "guarded"))
    np.testing.assert_array_equal(plain.order, guarded.order)
    np.testing.assert_array_equal(plain.ttft_s, guarded.ttft_s)
