"""Predicted work: the costs of a profile, and places that an artifact can carry."""

import numpy as np
import pytest

from predictor.order import WorkScale
from training.profiles import profile_named
from training.replay.work import fit_work, work_of

PROFILE = profile_named("h100-8b")


def test_work_is_the_prompts_prefill_and_the_answers_share_of_a_full_batch() -> None:
    """By hand: 1,000 prompt tokens and 100 output tokens of the profile."""
    scale = fit_work(PROFILE, np.array([1000.0]), np.array([100.0]))
    per_token_s = PROFILE.base_s / PROFILE.max_num_seqs + PROFILE.decode_sequence_s
    by_hand = 1000 * PROFILE.prefill_token_s + 100 * (per_token_s + PROFILE.kv_token_s * 1050)
    assert scale.work_s(1000, 100) == pytest.approx(by_hand)


def test_places_rise_with_work_and_fill_the_unit_interval() -> None:
    """Places of the requests that the map was fitted on are their ranks."""
    rng = np.random.default_rng(3)
    prompts, outputs = rng.integers(10, 9_000, 500).astype(float), rng.integers(1, 900, 500).astype(float)
    scale = fit_work(PROFILE, prompts, outputs)
    places = np.array([scale.place(*pair) for pair in zip(prompts, outputs, strict=True)])
    ranks = work_of(scale, prompts, outputs).argsort().argsort() / 499
    assert np.abs(places - ranks).max() < 0.01


def test_equal_work_shares_the_middle() -> None:
    """A crowd of alike requests has one place, in the middle, so that its order is the order of arrival."""
    scale: WorkScale = fit_work(PROFILE, np.full(50, 100.0), np.full(50, 10.0))
    assert scale.place(100.0, 10.0) == 0.5
