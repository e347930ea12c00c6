"""LightGBM's C library, called row by row, answers as its Python package does, and refuses what it cannot."""

import math
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from predictor.booster import Booster, BoosterError
from predictor.features.schema import FloatArray

WIDTH = 6


def trained(**parameters: Any) -> lightgbm.Booster:
    """A few trees on random rows, every third value absent."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, WIDTH)).astype(np.float32)
    target = np.tanh(rows[:, 0] + rows[:, 1] * rows[:, 2]) / 2 + 0.5
    rows[rng.random(rows.shape) < 1 / 3] = np.nan
    settings = {"objective": "cross_entropy", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}
    return lightgbm.train(settings | parameters, lightgbm.Dataset(rows, target), 8)


MODEL = trained()
OURS = Booster(MODEL.model_to_string(), WIDTH)
VALUES = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(arrays.arrays(np.float32, (3, WIDTH), elements=VALUES))
def test_one_row_scores_as_in_lightgbm(rows: FloatArray) -> None:
    """Training's predictions and serving's are one number, absent and infinite values included."""
    theirs = MODEL.predict(rows, raw_score=True)
    assert [OURS.score(row) for row in rows] == list(theirs)


def test_a_model_of_another_width_is_refused() -> None:
    """A schema with a column more or less would read past the row's end: refused with both numbers."""
    with pytest.raises(BoosterError, match=f"reads {WIDTH} features, the schema has 7"):
        Booster(MODEL.model_to_string(), 7)


def test_a_model_with_several_scores_is_refused() -> None:
    """Its other scores would be written past the end of our one number."""
    rows = np.random.default_rng(2).normal(size=(60, WIDTH))
    settings = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1}
    model = lightgbm.train(settings, lightgbm.Dataset(rows, np.arange(60) % 3), 2)
    with pytest.raises(BoosterError, match="3 classes"):
        Booster(model.model_to_string(), WIDTH)


@pytest.mark.parametrize("text", ["", "tree\nversion=v4\n", "no model at all"])
def test_what_is_no_model_is_refused_in_lightgbms_words(text: str) -> None:
    """Its error comes as ours, with its reason."""
    with pytest.raises(BoosterError, match=r"LightGBM: \S"):
        Booster(text, WIDTH)


def test_two_boosters_do_not_share_their_row() -> None:
    """Each keeps a row of its own, so that scores of one never come from another's features."""
    other = Booster(trained(learning_rate=0.5).model_to_string(), WIDTH)
    low, high = np.full(WIDTH, -2, np.float32), np.full(WIDTH, 2, np.float32)
    first = OURS.score(low)
    assert other.score(high) != first
    assert OURS.score(low) == first


def test_a_model_is_freed_once() -> None:
    """Closing twice, and deleting afterwards, frees nothing twice."""
    booster = Booster(MODEL.model_to_string(), WIDTH)
    assert math.isfinite(booster.score(np.zeros(WIDTH, np.float32)))
    booster.close()
    booster.close()
    del booster
