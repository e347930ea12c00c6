"""Several rankers, one score: a weighted mean of those that have something to say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.ensemble import Ensemble, Member
from predictor.features.schema import Schema

SCHEMA = Schema.of(("a", "b", "c"))


def of_feature(name: str, weight: float = 1.0, center: float = 0.0, scale: float = 1.0) -> Member:
    """A member that is a feature."""
    return Member("given", weight, center, scale, feature=name)


def score(members: list[Member], *row: float) -> float:
    """The ensemble's score of one row of a, b, c."""
    return Ensemble(members, {}, SCHEMA).score(np.array(row, dtype=np.float32))


def test_scores_are_standardised_and_weighted() -> None:
    """Each member counts by its weight, on its own scale."""
    members = [of_feature("a", weight=1, center=10, scale=2), of_feature("c", weight=3, center=0, scale=4)]
    assert score(members, 14, 99, 8) == pytest.approx((1 * 2 + 3 * 2) / 4)


def test_an_absent_feature_is_a_silent_member() -> None:
    """A NaN does not spread: the others decide alone; where none speaks all rows score alike."""
    members = [of_feature("a"), of_feature("b")]
    assert score(members, math.nan, 5, 0) == 5
    assert score(members, math.nan, math.nan, 0) == 0


@given(st.permutations(range(3)), st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3))
def test_the_order_of_the_members_means_nothing(order: list[int], row: list[float]) -> None:
    """The mean is the same whoever speaks first."""
    members = [of_feature("a", 1, 1, 2), of_feature("b", 2, 0, 5), of_feature("c", 0.5, -3, 1)]
    assert score([members[place] for place in order], *row) == pytest.approx(score(members, *row), abs=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 0.0},
        {"weight": -1.0},
        {"scale": 0.0},
        {"scale": math.nan},
        {"file": "booster-0.txt.gz"},
        {"feature": None},
    ],
)
def test_a_member_that_cannot_vote_cannot_be_made(fields: dict[str, object]) -> None:
    """No weight, no scale, both a file and a feature, or neither."""
    with pytest.raises(ValueError, match="a member of the ensemble needs"):
        Member(**({"objective": "x", "weight": 1.0, "center": 0.0, "scale": 1.0, "feature": "a"} | fields))  # type: ignore[arg-type]


def test_members_must_be_there() -> None:
    """No members, an unknown feature or a file that is not loaded: said when the ensemble is made."""
    with pytest.raises(ValueError, match="at least one member"):
        Ensemble([], {}, SCHEMA)
    with pytest.raises(KeyError, match="nowhere"):
        Ensemble([of_feature("nowhere")], {}, SCHEMA)
    with pytest.raises(KeyError, match="missing"):
        Ensemble([Member("x", 1, 0, 1, file="missing")], {}, SCHEMA)
