"""The ensemble's fit: every voice is judged on rows whose prompts it has not seen, as serving will use it."""

import numpy as np
import pytest

from predictor.artifact import model_from_bytes
from predictor.ensemble import Ensemble
from predictor.features.schema import Schema
from predictor.kernel import Kernel
from predictor.self_query import SELF_NAMES
from training.fit_ranker import (
    OBJECTIVES,
    RANKING,
    SMOOTH,
    FittedRanker,
    Rows,
    Voice,
    fit_booster,
    fit_ranker,
)
from training.folds import assign_folds

NAMES = ("signal", "noise", "opinion")
SCHEMA = Schema.of(NAMES)


def rows_of(count: int, copies: int = 1) -> Rows:
    """A target that the first column tells, with noise; each prompt `copies` times."""
    rng = np.random.default_rng(0)
    matrix = np.repeat(rng.normal(size=(count, 3)).astype(np.float32), copies, axis=0)
    target = 1 / (1 + np.exp(-matrix[:, 0] + np.repeat(rng.normal(size=count), copies)))
    prompts = np.repeat(np.arange(count).astype(np.str_), copies)
    return Rows(matrix, target, assign_folds(prompts, 5, rng), np.ones(count * copies))


def served(fitted: FittedRanker, schema: Schema = SCHEMA) -> Ensemble:
    """The ensemble as an artifact would hold it: by way of its files."""
    files = fitted.files(schema)
    return Ensemble(
        fitted.members, {file: model_from_bytes(file, data, schema) for file, data in files.items()}, schema
    )


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
    ensemble = served(fitted)
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


def test_few_rows_are_enough_for_a_smooth_voice() -> None:
    """Where forty features tell a little each, two hundred rows teach it more than they teach trees."""
    rng = np.random.default_rng(0)
    names = tuple(f"f{number}" for number in range(40))
    matrix = rng.normal(size=(1_000, 40)).astype(np.float32)
    told = matrix.sum(axis=1) / 6
    matrix[::5, 1] = np.nan
    target = 1 / (1 + np.exp(-told + rng.normal(size=1_000)))
    few = np.arange(200)
    rows = Rows(matrix[few], target[few], assign_folds(few.astype(np.str_), 5, rng), np.ones(200))

    def worth(voice: Voice) -> float:
        ensemble = served(fit_ranker(rows, names, [voice], 0), Schema.of(names))
        return float(np.corrcoef([ensemble.score(row) for row in matrix[200:]], target[200:])[0, 1])

    assert worth(Voice(SMOOTH, 1.0)) > 1.1 * worth(Voice("cross_entropy", 1.0)) > 0.2


def test_a_smooth_voice_serves_as_it_was_fitted() -> None:
    """By way of its file it gives the scores that its rows had; the mean of unseen rows lies in the middle."""
    rows = rows_of(120)
    fitted = fit_ranker(rows, NAMES, [Voice(SMOOTH, 1.0)], 0)
    (kernel,) = fitted.models.values()
    (member,) = fitted.members
    assert isinstance(kernel, Kernel)
    expected = (kernel.evaluate_rows(rows.matrix)[:, 0] - member.center) / member.scale
    ensemble = served(fitted)
    np.testing.assert_allclose([ensemble.score(row) for row in rows.matrix], expected, atol=1e-4)
    assert np.mean(fitted.scores) == pytest.approx(0, abs=1e-6)


def test_what_a_model_says_of_itself_is_heard_where_it_was_asked() -> None:
    """The voice that needs the signals is fitted on the rows that have them and silent on the others; the voice
    of the text never reads them, so that it loses nothing where nobody was asked."""
    rows = rows_of(300)
    names = ("signal", SELF_NAMES[0], SELF_NAMES[1])
    schema = Schema.of(names)
    rows.matrix[:, 1] = rows.target * 2 - 1
    rows.matrix[::2, 1:] = np.nan
    voices = [Voice(SMOOTH, 1.0), Voice(SMOOTH, 2.0, needs=names[1])]
    fitted = fit_ranker(rows, names, voices, 0)
    ensemble = served(fitted, schema)
    text, said = fitted.models.values()
    assert isinstance(text, Kernel)
    assert isinstance(said, Kernel)
    assert text.columns.tolist() == [0]
    assert set(said.columns.tolist()) == {0, 1, 2}
    scores = np.array([ensemble.score(row) for row in rows.matrix])
    asked = ~np.isnan(rows.matrix[:, 1])
    assert np.corrcoef(scores[asked], rows.target[asked])[0, 1] > 0.9
    assert np.isfinite(fitted.scores).all()
    one = rows.matrix[asked][0].copy()
    one[1:] = np.nan
    alone = text.evaluate_rows(one[None])[0, 0]
    assert ensemble.score(one) == pytest.approx(
        (alone - fitted.members[0].center) / fitted.members[0].scale, abs=1e-4
    )


def test_a_handful_of_answers_is_no_voice() -> None:
    """Nineteen rows with signals are left to LightGBM."""
    rows = rows_of(100)
    rows.matrix[19:, 2] = np.nan
    fitted = fit_ranker(rows, NAMES, [Voice("cross_entropy", 1.0), Voice(SMOOTH, 1.0, needs="opinion")], 0)
    assert [member.objective for member in fitted.members] == ["cross_entropy"]
