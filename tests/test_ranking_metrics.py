"""How well an order was predicted: tau-b as scipy computes it, intervals by prompt, pairs counted fairly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from scipy import stats

from training.dataset import read_dataset
from training.ranking_metrics import bootstrap_interval, kendall_tau_b, pairwise_accuracy
from training.sources import SourceRow

few_values = st.sampled_from([0.0, 1.0, 2.0, 3.5]) | st.floats(-1e3, 1e3)
pairs = st.lists(st.tuples(few_values, few_values), min_size=2, max_size=40)


def counted_tau_b(label: list[float], score: list[float]) -> float:
    """Kendall 1945, by counting every pair: (concordant - discordant) / sqrt(not tied in one * in the other)."""
    agreement = untied_label = untied_score = 0
    for one in range(len(label)):
        for other in range(one):
            left, right = np.sign(label[one] - label[other]), np.sign(score[one] - score[other])
            agreement += int(left * right)
            untied_label += bool(left)
            untied_score += bool(right)
    return agreement / math.sqrt(untied_label * untied_score) if untied_label and untied_score else 0.0


@profile(max_examples=60)
@given(pairs)
def test_tau_b_is_kendalls_with_ties_on_both_sides(rows: list[tuple[float, float]]) -> None:
    """Equal to the definition and to scipy's; 0, not NaN, where a side is constant."""
    label, score = (list(column) for column in zip(*rows, strict=True))
    ours = kendall_tau_b(np.array(label), np.array(score))
    assert ours == pytest.approx(counted_tau_b(label, score), abs=1e-12)
    theirs = stats.kendalltau(label, score).statistic
    assert ours == pytest.approx(0.0 if math.isnan(theirs) else theirs, abs=1e-12)


@profile(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 1)), min_size=2, max_size=40))
def test_censored_rows_are_tied_at_the_cap(rows: list[tuple[int, float]]) -> None:
    """What a cap hides cannot be ranked: tau-b is that of the lengths cut at the cap, by definition."""
    cap = 100
    data = read_dataset(
        SourceRow(f"row {number}", {"prompt": "x", "output_tokens": tokens, "max_tokens": cap})
        for number, (tokens, _) in enumerate(rows)
    )
    score = [value for _, value in rows]
    cut = [float(min(tokens, cap)) for tokens, _ in rows]
    assert data.censored.tolist() == [tokens >= cap for tokens, _ in rows]
    assert kendall_tau_b(data.label, np.array(score)) == pytest.approx(counted_tau_b(cut, score), abs=1e-12)


def test_an_order_is_worth_one_its_reverse_minus_one_and_none_nothing() -> None:
    """The scale's fixed points; fewer than two rows have no order."""
    label = np.arange(10.0)
    assert kendall_tau_b(label, label**3) == pytest.approx(1)
    assert kendall_tau_b(label, -label) == pytest.approx(-1)
    assert kendall_tau_b(label, np.zeros(10)) == 0
    assert kendall_tau_b(label[:1], label[:1]) == kendall_tau_b(label[:0], label[:0]) == 0


def noisy(prompts: int, copies: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and prompts, each prompt's rows being copies of one."""
    rng = np.random.default_rng(seed)
    label = rng.normal(size=prompts)
    score = label + rng.normal(size=prompts)
    names = np.array([f"prompt {number}" for number in range(prompts)])
    return np.repeat(label, copies), np.repeat(score, copies), np.repeat(names, copies)


def test_the_interval_holds_the_figure_and_narrows_with_rows() -> None:
    """95% of what resampling gives: around the estimate, narrower with more prompts, the same for one seed."""
    widths = []
    for prompts in (20, 500):
        label, score, names = noisy(prompts, 1, seed=5)
        low, high = bootstrap_interval(label, score, names, np.random.default_rng(0))
        assert low < kendall_tau_b(label, score) < high
        assert (low, high) == bootstrap_interval(label, score, names, np.random.default_rng(0))
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_rows_of_one_prompt_are_drawn_together() -> None:
    """Twenty copies of each prompt are no more evidence than one: the interval stays as wide."""
    once = noisy(40, 1, seed=7)
    often = noisy(40, 20, seed=7)
    one = bootstrap_interval(*once, np.random.default_rng(0))
    many = bootstrap_interval(*often, np.random.default_rng(0))
    apart = bootstrap_interval(*often[:2], np.arange(len(often[0])).astype(np.str_), np.random.default_rng(0))
    assert many[1] - many[0] == pytest.approx(one[1] - one[0], rel=0.25)
    assert apart[1] - apart[0] < (many[1] - many[0]) / 2


def test_one_prompt_has_an_interval_of_no_width() -> None:
    """Nothing can be resampled, and nothing fails."""
    low, high = bootstrap_interval(
        np.arange(5.0), np.arange(5.0), np.array(["same"] * 5), np.random.default_rng(0)
    )
    assert low == high == pytest.approx(1)


def test_pairwise_accuracy_is_the_share_of_pairs_in_order() -> None:
    """1 for the right order, 0 for its reverse, a half for none; pairs of one length do not count."""
    label = np.array([1.0, 1.0, 2.0, 3.0])
    rng = np.random.default_rng(0)
    assert pairwise_accuracy(label, label, rng) == 1
    assert pairwise_accuracy(label, np.array([9.0, 0.0, 10.0, 11.0]), rng) == 1
    assert pairwise_accuracy(label, -label, rng) == 0
    assert pairwise_accuracy(label, np.zeros(4), rng) == 0.5
    assert pairwise_accuracy(np.ones(4), label, rng) == 0.5
    assert pairwise_accuracy(label[:1], label[:1], rng) == 0.5


@profile(max_examples=20)
@given(st.integers(0, 2**32))
def test_pairwise_accuracy_agrees_with_counting(seed: int) -> None:
    """The sample of pairs is large enough to be within a hundredth of all of them."""
    rng = np.random.default_rng(seed)
    label, score = rng.integers(0, 9, 50).astype(float), rng.normal(size=50)
    left, right = np.triu_indices(50, 1)
    sign = np.sign(label[left] - label[right])
    agree = sign[sign != 0] * np.sign(score[left] - score[right])[sign != 0]
    assert pairwise_accuracy(label, score, rng) == pytest.approx(float((agree > 0).mean()), abs=0.01)
