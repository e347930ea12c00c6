"""Folds that never separate two rows of one prompt."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.folds import assign_folds, held_out_masks

prompts = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40)


@given(prompts, st.integers(1, 6))
def test_all_rows_of_a_prompt_are_in_one_fold(names: list[str], folds: int) -> None:
    """Or a row would be predicted by what had seen its twin."""
    fold = assign_folds(np.array(names), folds, np.random.default_rng(0))
    for name in set(names):
        assert len(set(fold[np.array(names) == name])) == 1
    assert len(set(fold)) == min(folds, len(set(names)))


@given(prompts, st.integers(2, 6))
def test_every_row_is_held_out_once_and_something_is_left(names: list[str], folds: int) -> None:
    """With two prompts or more; with one there is nothing else to train on, and no fold."""
    masks = list(held_out_masks(assign_folds(np.array(names), folds, np.random.default_rng(0))))
    if len(set(names)) == 1:
        assert not masks
    else:
        assert (sum(mask.astype(int) for mask in masks) == 1).all()
        assert not any(mask.all() for mask in masks)


def test_prompts_are_spread_evenly() -> None:
    """No fold has more than one prompt above another."""
    fold = assign_folds(np.array([str(number) for number in range(103)]), 5, np.random.default_rng(0))
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 1
