"""From a score to quantile, tokens and spread: never falling, never out of range, whatever the scores were."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from predictor.calibration import Calibration, MonotoneMap
from training.fit_calibration import fit_calibration

SCORES = st.floats(-1e6, 1e6)
ANY_SCORE = st.floats(allow_nan=True, allow_infinity=True)
ROWS = st.lists(
    st.tuples(st.sampled_from([-1.5, 0.0, 0.25]) | SCORES, st.integers(0, 10_000_000), st.booleans()),
    min_size=1,
    max_size=120,
)


def fitted(rows: list[tuple[float, int, bool]]) -> Calibration:
    """A calibration of (score, tokens, censored) rows."""
    scores, tokens, censored = zip(*rows, strict=True)
    return fit_calibration(np.array(scores), np.array(tokens, dtype=float), np.array(censored))


@profile(max_examples=60)
@given(ROWS, st.lists(ANY_SCORE, min_size=2, max_size=20))
def test_whatever_it_was_fitted_on_every_map_is_monotone_and_in_range(
    rows: list[tuple[float, int, bool]], scores: list[float]
) -> None:
    """The quantile lies in [0, 1], tokens between the least and most seen; no higher score gives a lower value."""
    calibration = fitted(rows)
    seen = [tokens for _, tokens, _ in rows]
    ordered = sorted(scores, key=lambda score: math.inf if math.isnan(score) else score)
    predictions = [calibration.predict(score) for score in ordered]
    for one in predictions:
        assert 0 <= one.quantile <= 1
        assert all(min(seen) <= t <= max(seen) for t in (one.tokens, one.p10_tokens, one.p90_tokens))
        assert one.p10_tokens <= one.p90_tokens
    for low, high in itertools.pairwise(predictions):
        assert low.quantile <= high.quantile
        assert low.tokens <= high.tokens
        assert low.p10_tokens <= high.p10_tokens
        assert low.p90_tokens <= high.p90_tokens


def test_the_quantile_is_the_share_of_scores_below() -> None:
    """Of scores spread anyhow, the one with a tenth of the others below it is at 0.1."""
    rng = np.random.default_rng(3)
    scores = np.exp(rng.normal(size=4_000))
    calibration = fit_calibration(scores, np.ones(4_000), np.zeros(4_000, dtype=bool))
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert calibration.predict(float(np.quantile(scores, share))).quantile == pytest.approx(
            share, abs=0.01
        )


def test_expected_tokens_add_up_and_the_spread_covers_four_fifths() -> None:
    """Over the rows it was fitted on, isotonic regression keeps the sum, and 80% lie between p10 and p90."""
    rng = np.random.default_rng(4)
    scores = rng.normal(size=2_000)
    tokens = np.exp(4 + scores + rng.normal(size=2_000) / 2)
    calibration = fit_calibration(scores, tokens, np.zeros(2_000, dtype=bool))
    stated = [calibration.predict(score) for score in scores]
    assert sum(one.tokens for one in stated) == pytest.approx(tokens.sum(), rel=0.02)
    inside = [one.p10_tokens <= value <= one.p90_tokens for one, value in zip(stated, tokens, strict=True)]
    assert np.mean(inside) == pytest.approx(0.8, abs=0.04)


def test_a_cut_answer_counts_in_the_quantile_and_not_in_the_tokens() -> None:
    """A lower bound is no length: it would pull expected tokens down. Its place in the traffic is real."""
    scores = np.arange(100.0)
    tokens = np.full(100, 50.0)
    cut = scores >= 50
    tokens[cut] = 4.0
    calibration = fit_calibration(scores, tokens, cut)
    assert calibration.predict(99).tokens == 50
    assert calibration.predict(49.5).quantile == pytest.approx(0.5, abs=0.01)


def test_where_every_answer_was_cut_the_bounds_must_do() -> None:
    """Nothing better is known, and no key goes missing."""
    calibration = fit_calibration(np.arange(10.0), np.full(10, 64.0), np.ones(10, dtype=bool))
    assert calibration.predict(3).tokens == 64


def test_one_row_or_one_score_gives_the_middle() -> None:
    """With nothing to tell requests apart all have one place, and the order is first come, first served."""
    one = fit_calibration(np.array([2.0]), np.array([30.0]), np.array([False]))
    same = fit_calibration(np.zeros(20), np.arange(20.0), np.zeros(20, dtype=bool))
    assert one.predict(-1).quantile == one.predict(5).quantile
    assert one.predict(5).tokens == 30
    assert same.predict(-1).quantile == same.predict(5).quantile == 0.5
    assert same.predict(0).tokens == pytest.approx(9.5)


@given(st.lists(SCORES, min_size=1, max_size=20, unique=True), st.data())
def test_a_map_goes_through_its_points_and_stays_flat_beyond(x: list[float], data: st.DataObject) -> None:
    """As numpy's interpolation does; a NaN score takes the last value, the cautious one."""
    x = sorted(x)
    y = sorted(data.draw(st.lists(SCORES, min_size=len(x), max_size=len(x))))
    ours = MonotoneMap(x, y)
    probe = data.draw(SCORES)
    assert [ours(value) for value in x] == y
    assert ours(probe) == pytest.approx(float(np.interp(probe, x, y)), rel=1e-6, abs=1e-6)
    assert (ours(-math.inf), ours(math.inf), ours(math.nan)) == (y[0], y[-1], y[-1])


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([], []),
        ([0.0], [0.0, 1.0]),
        ([0.0, 0.0], [0.0, 1.0]),
        ([1.0, 0.0], [0.0, 1.0]),
        ([0.0, 1.0], [1.0, 0.0]),
        ([0.0, math.nan], [0.0, 1.0]),
        ([0.0, 1.0], [0.0, math.inf]),
    ],
)
def test_what_is_no_monotone_map_cannot_be_made(x: list[float], y: list[float]) -> None:
    """Empty, unequal, repeated, falling, not finite: refused where it is made."""
    with pytest.raises(ValueError, match="a map needs"):
        MonotoneMap(x, y)


@pytest.mark.parametrize("tokens", [[-1.0], [1e9]])
def test_expected_tokens_out_of_all_reason_cannot_be_made(tokens: list[float]) -> None:
    """Below zero or beyond any context: found once, when it is loaded."""
    good, bad = MonotoneMap([0.0], [1.0]), MonotoneMap([0.0], tokens)
    with pytest.raises(ValueError, match="expected tokens lie between"):
        Calibration(good, good, good, bad)
