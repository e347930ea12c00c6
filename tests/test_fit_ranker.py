"""The ensemble's fit: every voice is judged on rows whose prompts it has not seen, as serving will use it."""

import numpy as np
import pytest

from predictor.booster import Booster
from predictor.ensemble import Ensemble
from predictor.features.schema import Schema
from training.fit_ranker import OBJECTIVES, RANKING, Rows, Voice, fit_booster, fit_ranker
from training.folds import assign_folds

NAMES = ("signal", "noise", "opinion")


def rows_of(count: int, copies: int = 1) -> Rows:
    """A target that the first column tells, with noise; each prompt `copies` times."""
    rng = np.random.default_rng(0)
    matrix = np.repeat(rng.normal(size=(count, 3)).astype(np.float32), copies, axis=0)
    target = 1 / (1 + np.exp(-matrix[:, 0] + np.repeat(rng.normal(size=count), copies)))
    prompts = np.repeat(np.arange(count).astype(np.str_), copies)
    return Rows(matrix, target, assign_folds(prompts, 5, rng), np.ones(count * copies))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_orders(objective: str) -> None:
    """The ranking ones too, which see groups of rows: higher scores for longer answers, small data or not."""
    rows = rows_of(250)
    score = fit_booster(rows, objective, 0).predict(rows.matrix, raw_score=True)
    assert np.corrcoef(score, rows.target)[0, 1] > 0.5
    assert {"lambdarank", "rank_xendcg"} == RANKING < set(OBJECTIVES)


def test_scores_are_of_rows_that_were_not_seen() -> None:
    """Copies of a prompt in the training rows would let it be learned by heart: noise is not predicted."""
    rows = rows_of(60, copies=5)
    rng = np.random.default_rng(1)
    noise = rows._replace(target=np.repeat(rng.random(60), 5))
    fitted = fit_ranker(noise, NAMES, [Voice("regression", 1.0)], 0)
    own = fit_booster(noise, "regression", 0).predict(noise.matrix, raw_score=True)
    assert np.corrcoef(own, noise.target)[0, 1] > 0.5
    assert abs(np.corrcoef(fitted.scores, noise.target)[0, 1]) < 0.35


def test_the_ensemble_that_was_fitted_is_the_one_that_serves() -> None:
    """Members, files and scales give in serving the mean of standardised voices that training computed."""
    rows = rows_of(80)
    voices = [Voice("cross_entropy", 1.0), Voice("given", 0.5, "opinion")]
    fitted = fit_ranker(rows, NAMES, voices, 0)
    (file,) = fitted.models
    ensemble = Ensemble(fitted.members, {file: Booster(fitted.models[file], 3)}, Schema.of(NAMES))
    booster = fit_booster(rows, "cross_entropy", 0).predict(rows.matrix, raw_score=True)
    tree, opinion = fitted.members
    expected = (
        (booster - tree.center) / tree.scale + 0.5 * (rows.matrix[:, 2] - opinion.center) / opinion.scale
    ) / 1.5
    np.testing.assert_allclose([ensemble.score(row) for row in rows.matrix], expected, rtol=1e-4, atol=1e-5)


def test_a_voice_without_a_word_is_silent() -> None:
    """Where its feature is absent the others decide, in training as in serving; absent everywhere, it is left out."""
    rows = rows_of(80)
    voices = [Voice("regression", 1.0), Voice("given", 0.5, "opinion")]
    rows.matrix[::2, 2] = np.nan
    half = fit_ranker(rows, NAMES, voices, 0)
    assert np.isfinite(half.scores).all()
    assert half.members[1].center == pytest.approx(float(np.nanmean(rows.matrix[:, 2])), abs=1e-6)
    rows.matrix[:, 2] = np.nan
    none = fit_ranker(rows, NAMES, voices, 0)
    assert [member.feature for member in none.members] == [None]
    assert np.isfinite(none.scores).all()


def test_weights_count() -> None:
    """A row of no weight teaches nothing."""
    rows = rows_of(200)
    liars = np.arange(200) < 100
    lied = rows._replace(
        target=np.where(liars, 1 - rows.target, rows.target), weight=np.where(liars, 1e-6, 1.0)
    )
    score = fit_booster(lied, "regression", 0).predict(rows.matrix[~liars], raw_score=True)
    assert np.corrcoef(score, rows.target[~liars])[0, 1] > 0.5
