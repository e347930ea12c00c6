"""Policies side by side, the tuned knobs and the verdict in words."""

import msgspec
import numpy as np
import pytest

from predictor.prediction import Prediction
from proxy.scheduling.policy import Boost, Fcfs
from training.profiles import profile_named
from training.replay.measures import Figures, best_gain_within
from training.replay.outlook import Setting, default_overtake_s, look, runs_of
from training.replay.predictions import Distortion, distorted, oracle, synthetic
from training.replay.scene import Knobs, Scene, capacity_per_s, fitted_boost
from training.replay.simulate import Jobs, Pool
from training.replay.tune import WHOLE_GRID, Grid, Limits, choose, tune
from training.replay.verdict import logged_wait, verdict
from training.replay.workload import Item, Workload

POOL = Pool(profile_named("demo"))
RNG = np.random.default_rng(11)
LENGTHS = np.where(RNG.random(400) < 0.6, RNG.integers(1, 10, 400), RNG.integers(150, 500, 400))
SETTING = Setting("burst", 1.0, 10.0, 1.0)


def scene_of(lengths: np.ndarray, at_s: float = 0.0) -> Scene:
    """A crowd that arrives `at_s` apart, with a ranker of tau 0.6."""
    jobs = Jobs([20] * len(lengths), lengths.tolist(), [round(i * at_s * 1e6) for i in range(len(lengths))])
    return Scene(POOL, jobs, synthetic(lengths.astype(float), 0.6, np.random.default_rng(1)))


def test_an_outlook_plays_everything_once_and_judges_it() -> None:
    """One arm per policy that was asked for, shares of the oracle's gain, progress as often as announced."""
    asked = ["fcfs", "hrrn", "boost", "quantile", "oracle-quantile"]
    told: list[str] = []
    scene = scene_of(LENGTHS)
    outlook = look(scene, SETTING, asked, Knobs(2 * scene.fcfs_figures.wait_s.p99), told.append)
    assert [arm.figures.policy for arm in outlook.arms] == asked
    assert len(told) == runs_of(asked)
    arms = dict(zip(asked, outlook.arms, strict=True))
    assert arms["fcfs"].figures.gain_s == 0
    assert arms["fcfs"].of_oracle is None
    assert arms["oracle-quantile"].of_oracle == 1.0
    assert outlook.headroom > 1.5
    ours = arms["quantile"]
    assert ours.of_oracle is not None
    assert 0.5 < ours.of_oracle < 1
    assert ours.figures.overtaken_s <= outlook.max_overtake_s
    assert f"{outlook.headroom:.1f}x headroom" in outlook.verdict


def test_reversed_predictions_do_harm_and_the_lane_softens_it() -> None:
    """Under reversed predictions the mean TTFT rises above FCFS's, and less so with an oldest-first lane."""
    scene = scene_of(LENGTHS)
    turned = distorted(scene.ranked, LENGTHS.astype(float), Distortion.REVERSED, np.random.default_rng(1))
    plain, lane = (scene.figures("quantile", Knobs(60.0, share), turned).ttft_s.mean for share in (0.0, 0.5))
    assert scene.fcfs_figures.ttft_s.mean < lane < plain


def test_alike_answers_and_empty_queues_need_no_headway() -> None:
    """The verdict says so, for the right reason."""
    alike = scene_of(np.full(200, 100))
    best = alike.figures("oracle-sjf", Knobs(1.0))
    assert "too alike" in verdict(alike.fcfs_figures, best, None, 1.0)
    idle = scene_of(LENGTHS, at_s=10.0)
    assert "hardly anybody queues" in verdict(idle.fcfs_figures, idle.fcfs_figures, None, 1.0)


def test_a_promise_is_made_by_those_alone_who_keep_it() -> None:
    """Shortest first bounds nothing, and the verdict on it says so."""
    scene = scene_of(LENGTHS)
    best = scene.figures("oracle-sjf", Knobs(1.0))
    ours = msgspec.structs.replace(best, policy="sjf", overtaken_s=77.0)
    assert "no bound on being overtaken (77 s here)" in verdict(scene.fcfs_figures, best, ours, 1.0)
    bounded = msgspec.structs.replace(best, policy="quantile", overtaken_s=0.5)
    assert "nobody overtaken by more than 1 s" in verdict(scene.fcfs_figures, best, bounded, 1.0)


def test_a_log_speaks_for_its_own_load() -> None:
    """The load of a replay is asked for; whether anybody queued at the operator's own is read off the log."""
    assert "hardly anybody queued" in logged_wait([(0.01, 5.0)] * 30)
    assert "requests did queue: wait 3.00 s in the mean" in logged_wait(
        [(3.0, 8.0), (None, 8.0), (1.0, None)] * 20
    )
    assert logged_wait([*[(3.0, 8.0)] * 30, (1e300, 8.0), (-1e300, 1.0)]) == logged_wait([(3.0, 8.0)] * 30)
    assert logged_wait([(3.0, 8.0)] * 5) == logged_wait([]) == ""


def test_a_bad_ranker_is_called_bad() -> None:
    """Where order could help and these predictions do harm, the verdict says to train first."""
    scene = scene_of(LENGTHS)
    turned = distorted(scene.ranked, LENGTHS.astype(float), Distortion.REVERSED, np.random.default_rng(1))
    ours = scene.figures("quantile", Knobs(60.0), turned)
    said = verdict(scene.fcfs_figures, scene.figures("oracle-sjf", Knobs(60.0)), ours, 60.0)
    assert "worse than no order" in said


def test_tuning_keeps_every_limit_or_stays_with_fcfs() -> None:
    """The chosen point breaks no limit and gains; where no extra delay is allowed the choice is D = 0."""
    scene = scene_of(LENGTHS[:200], at_s=0.02)
    turned = distorted(
        scene.ranked, LENGTHS[:200].astype(float), Distortion.REVERSED, np.random.default_rng(1)
    )
    told: list[str] = []
    limits = Limits(extra_delay_s=5.0)
    found = tune(scene, turned, SETTING, start_s=4.0, limits=limits, advance=told.append)
    assert len(told) == WHOLE_GRID.runs()
    point = next(one for one in found.frontier if (one.policy, one.knobs) == (found.policy, found.choice))
    assert point.figures.extra_delay_s <= 5.0
    assert point.longest_ratio <= limits.longest_ratio
    assert point.reversed_ratio <= limits.reversed_ratio
    assert found.gets > 1
    strict = tune(scene, turned, SETTING, start_s=4.0, limits=Limits(0.0), advance=told.append)
    assert (strict.policy, strict.choice) == ("fcfs", Knobs(0.0))
    assert strict.gets == 1.0
    assert choose(found.frontier) == point


def test_reversed_predictions_are_judged_as_serving_would_meet_them() -> None:
    """The guardrail falls long before a reversed ranker has done what it could: D is not held down for its sake."""
    scene = scene_of(LENGTHS, at_s=0.02)
    turned = distorted(scene.ranked, LENGTHS.astype(float), Distortion.REVERSED, np.random.default_rng(1))
    grid = Grid(multiples=(1.0,), lanes=(0.0,))
    wide = Limits(1e9, longest_ratio=1e9)
    found = tune(scene, turned, SETTING, start_s=60.0, limits=wide, advance=lambda _: None, grid=grid)
    for point, name in zip(found.frontier, ("guarded", "work-guarded"), strict=True):
        fcfs_s = scene.fcfs_figures.ttft_s.mean
        guarded, bare = (scene.figures(one, Knobs(60.0), turned).ttft_s.mean for one in (name, point.policy))
        assert point.reversed_ratio == guarded / fcfs_s < bare / fcfs_s
        assert (point.fails == "") is (point.reversed_ratio <= 1.5)


def test_the_starting_point_is_the_smaller_of_both_bounds() -> None:
    """D = min(X / peak load, twice the p99 wait under FCFS)."""
    fcfs = scene_of(LENGTHS).fcfs_figures
    assert default_overtake_s(fcfs, 2.0, None) == 2 * fcfs.wait_s.p99
    assert default_overtake_s(fcfs, 2.0, 1.0) == 0.5
    assert default_overtake_s(fcfs, 0.5, 1e9) == 2 * fcfs.wait_s.p99


def test_capacity_is_what_a_full_engine_serves() -> None:
    """Equal requests on 16 slots: one wave of 16 per 100 iterations, less its prefills."""
    workload = Workload("here", [Item(16, 100)] * 20)
    profile = POOL.profile
    wave_s = 100 * (profile.base_s + 16 * (profile.decode_sequence_s + 66 * profile.kv_token_s))
    found = capacity_per_s(POOL, workload, np.random.default_rng(1))
    assert found == pytest.approx(16 / wave_s, rel=0.1)
    assert capacity_per_s(Pool(profile, 2), workload, np.random.default_rng(1)) == pytest.approx(
        2 * found, rel=0.1
    )


def test_work_counts_the_prompt_where_it_is_what_takes_the_time() -> None:
    """With answers alike and prompts far apart, work orders by prompt where length does not order at all."""
    prompts = [100 + 1_000 * (number % 3) for number in range(90)]
    jobs = Jobs(prompts, [50] * 90, [0] * 90)
    heavy = Pool(msgspec.structs.replace(POOL.profile, prefill_token_s=1e-3))
    scene = Scene(heavy, jobs, oracle(np.full(90, 50.0)))
    run = scene.run("work", Knobs(60.0))
    assert np.diff(np.array(prompts)[run.order[16:]]).min() >= 0
    assert run.ttft_s.mean() < 0.9 * scene.run("quantile", Knobs(60.0)).ttft_s.mean()


def test_tuning_and_verdict_go_by_work_where_work_is_what_counts() -> None:
    """Answers alike, prompts far apart: the choice is `work`, and the headroom is the work's, not the length's."""
    prompts = [100 + 1_000 * (number % 3) for number in range(90)]
    jobs = Jobs(prompts, [50] * 90, [0] * 90)
    heavy = Pool(msgspec.structs.replace(POOL.profile, prefill_token_s=1e-3))
    scene = Scene(heavy, jobs, oracle(np.full(90, 50.0)))
    limits = Limits(extra_delay_s=1e9, longest_ratio=1e9, reversed_ratio=1e9)
    found = tune(scene, scene.ranked, SETTING, start_s=20.0, limits=limits, advance=lambda _: None)
    assert found.policy == "work"
    assert found.headroom > 1.1
    assert "by predicted work" in found.verdict


def test_the_oracle_is_read_off_between_its_runs() -> None:
    """Half-way between two p99 values lies half of the gain; below the lowest there is nothing to compare."""
    base = scene_of(LENGTHS[:40]).fcfs_figures
    ladder = [
        _with(base, p99=10.0, gain=0.0),
        _with(base, p99=20.0, gain=4.0),
        _with(base, p99=30.0, gain=3.0),
    ]
    assert best_gain_within(ladder, 15.0) == pytest.approx(2.0)
    assert best_gain_within(ladder, 40.0) == 4.0
    assert best_gain_within(ladder, 9.0) is None


def test_boost_spends_its_whole_range_on_the_shortest_and_keeps_the_bound() -> None:
    """Keys lie within D of the arrival, fall as answers get shorter, and few reach the clip's end."""
    known = oracle(LENGTHS.astype(float))
    policy = fitted_boost(known, 0.005, 30.0)
    assert isinstance(policy, Boost)
    keys = [policy.key_us(7, Prediction(0.5, float(tokens), 1.0, 1.0)) - 7 for tokens in sorted(LENGTHS)]
    assert min(keys) >= 0
    assert max(keys) <= 30_000_000
    assert keys == sorted(keys)
    assert len(set(keys)) > 0.8 * len(set(LENGTHS.tolist()))
    assert isinstance(fitted_boost(known, 0.005, 0.0), Fcfs)
    with pytest.raises(ValueError, match="above 0"):
        Boost(1, 0.0, 1.0, 1.0)


def _with(figures: Figures, p99: float, gain: float) -> Figures:
    ttft_s = msgspec.structs.replace(figures.ttft_s, p99=p99)
    return msgspec.structs.replace(figures, ttft_s=ttft_s, gain_s=gain)
