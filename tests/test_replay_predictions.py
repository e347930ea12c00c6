"""Predictions of a replay: where they come from, and how well they order."""

from pathlib import Path

import numpy as np
import pytest

from training.ranking_metrics import kendall_tau_b
from training.replay.predictions import Distortion, distorted, oracle, ranked, synthetic
from training.replay.workload import Item, Workload
from training.sources import DataError

LENGTHS = np.round(np.random.default_rng(3).lognormal(4, 1.2, 4_000)) + 1


@pytest.mark.parametrize("tau", [0.2, 0.6, 0.9])
def test_the_made_up_ranker_has_the_tau_that_was_asked_for(tau: float) -> None:
    """Its quantiles order true lengths as well as asked, and its tokens follow its quantiles."""
    made = synthetic(LENGTHS, tau, np.random.default_rng(5))
    assert made.tau_b == pytest.approx(tau, abs=0.005)
    assert kendall_tau_b(made.tokens, made.quantile) > 0.99
    assert ((made.quantile > 0) & (made.quantile < 1)).all()


def test_a_seed_gives_the_same_ranker_again() -> None:
    """Two runs of a replay with one seed see the same predictions."""
    first, second = (synthetic(LENGTHS, 0.5, np.random.default_rng(9)) for _ in range(2))
    assert (first.quantile == second.quantile).all()


def test_spoiled_predictions_are_as_bad_as_they_say() -> None:
    """Reversed turns tau round, in quantiles and in tokens; shuffled leaves none."""
    made = synthetic(LENGTHS, 0.6, np.random.default_rng(5))
    turned = distorted(made, LENGTHS, Distortion.REVERSED, np.random.default_rng(1))
    assert turned.tau_b == pytest.approx(-made.tau_b, abs=0.01)
    assert kendall_tau_b(LENGTHS, turned.tokens) == pytest.approx(-made.tau_b, abs=0.01)
    dealt = distorted(made, LENGTHS, Distortion.SHUFFLED, np.random.default_rng(1))
    assert abs(dealt.tau_b) < 0.05
    assert distorted(made, LENGTHS, Distortion.NONE, np.random.default_rng(1)) is made


def test_equal_lengths_share_the_middle_of_their_places() -> None:
    """The oracle does not order what does not differ."""
    assert oracle(np.array([5.0, 9.0, 5.0, 5.0])).quantile.tolist() == [0.375, 0.875, 0.375, 0.375]


def test_logged_predictions_are_used_as_they_were_served() -> None:
    """Where most rows have one it counts; a row without one stands in the middle, as it did in serving."""
    items = [Item(10, length, quantile=place, tokens=length * 2.0) for length, place in ((5, 0.1), (9, 0.9))]
    found = ranked(Workload("log", [*items, Item(10, 7)]), None, 0.6, np.random.default_rng(1))
    assert found.by == "as logged"
    assert found.quantile.tolist() == [0.1, 0.9, 0.5]
    assert found.tokens.tolist() == [10.0, 18.0, 7.0]


def test_an_artifact_needs_something_to_go_by() -> None:
    """Rows that are lengths only cannot be ranked by an artifact: said before it is even opened."""
    with pytest.raises(DataError, match="leave out --artifact"):
        ranked(Workload("trace.csv", [Item(1, 2)] * 9), Path("nowhere"), 0.6, np.random.default_rng(1))
