"""What training takes from its rows: never a held-out length, no length of an answer that was cut, a target by place."""

from typing import Any

import numpy as np
import pytest
from training_rows import rows, trained

from predictor.artifact import load_artifact
from predictor.features.extractor import schema_of
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from training.train import order_target


def models(bundle: Any) -> dict[str, bytes]:
    """The ranker's models as an artifact keeps them."""
    return dict(bundle.ranker.files(schema_of(bundle.head)))


def test_held_out_rows_teach_nothing() -> None:
    """Whatever the rows marked heldout say, the artifact is the same to the last byte."""
    train_rows = rows(30, split="train")
    held = [{**row, "id": f"h{row['id']}", "split": "heldout"} for row in rows(12)]
    other = [{**row, "output_tokens": 5000, "prompt": "Other words."} for row in held]
    first, again = trained([*held, *train_rows])[0], trained([*other, *train_rows])[0]
    assert models(first) == models(again)
    assert first.calibration == again.calibration
    np.testing.assert_array_equal(first.head.weights, again.head.weights)


def test_without_a_split_the_last_fifth_teaches_nothing() -> None:
    """Time decides: what came last is left to be evaluated on."""
    given = rows(40)
    changed = [*given[:32], *({**row, "output_tokens": 5000} for row in given[32:])]
    first, again = trained(given)[0], trained(changed)[0]
    assert models(first) == models(again)
    assert first.calibration == again.calibration


def test_censored_rows_stay_out_of_the_calibration() -> None:
    """They are ranked, tied at their cap; no expected length comes from them."""
    cut = [
        {**row, "output_tokens": 5000, "max_tokens": 5000} if number % 3 == 2 else row
        for number, row in enumerate(rows(60))
    ]
    bundle, report = trained(cut)
    whole = [row["output_tokens"] for row in cut[:48] if row["output_tokens"] < 5000]
    assert (report["rows_censored"], len(whole)) == (16, 32)
    calibration = bundle.calibration
    for tokens in (calibration.tokens, calibration.p10_tokens, calibration.p90_tokens):
        assert min(whole) <= tokens.y[0] <= tokens.y[-1] <= max(whole)


def test_the_target_goes_by_place_and_by_size() -> None:
    """Longer is never less, ties are equal, and one absurd length leaves the others apart."""
    lengths = np.concatenate([np.repeat(np.arange(1.0, 101.0), 2), [1e7]])
    target = order_target(lengths)
    assert (np.diff(target) >= 0).all()
    assert (target[0:200:2] == target[1:200:2]).all()
    assert 0 < target[0] < 0.02 < 0.98 < target[-1] == 1.0
    assert 0.45 < target[100] < 0.55
    middle = order_target(np.array([10.0, 20.0, 30.0, 2000.0]))
    assert np.diff(middle)[-1] > 2 * np.diff(middle)[0]


@pytest.mark.parametrize("lengths", [[0.0], [0.0, 0.0], [7.0, 7.0, 7.0]])
def test_the_target_of_equal_lengths_is_equal(lengths: list[float]) -> None:
    """Nothing to tell apart, nothing to divide by: still within [0, 1]."""
    target = order_target(np.array(lengths))
    assert len(set(target.tolist())) == 1
    assert 0 <= target[0] <= 1


def test_training_starts_from_what_other_prompts_taught() -> None:
    """By default the shipped prior columns are lent under their names; with none there are none."""
    base = load_artifact(DEFAULT_ARTIFACT).head
    lent = [name for name in base.names if ".prior_" in name]
    with_base = trained(rows(30), base=base)[0].head.names
    alone = trained(rows(30))[0].head.names
    assert lent
    assert with_base[: len(lent)] == tuple(lent)
    assert not any(".prior_" in name for name in alone)
