"""Tenants and arrivals for files that have neither: by seed, plausible, and prequential."""

import numpy as np
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from predictor.history import HISTORY_NAMES, HistoryKey
from training.simulate_tenants import (
    Arrivals,
    assign_tenants,
    replay_history,
    simulate_arrivals,
    simulate_repeats,
)

COUNT = HISTORY_NAMES.index("history.tenant.count")


def key(tenant: str) -> HistoryKey:
    """A key that only the tenant tells apart."""
    return HistoryKey(("p", "s", "o", f"t{tenant}", "m"))


@profile(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 900)), min_size=1, max_size=150),
    st.integers(0, 99),
)
def test_every_row_has_a_tenant_and_a_seed_always_the_same(rows: list[tuple[str, int]], seed: int) -> None:
    """One row or many, equal lengths or not; the same seed sends the same rows by the same tenants."""
    part, label = np.array([name for name, _ in rows]), np.array([float(tokens) for _, tokens in rows])
    tenants = assign_tenants(part, label, np.random.default_rng(seed))
    assert tenants == assign_tenants(part, label, np.random.default_rng(seed))
    assert len(tenants) == len(rows)
    assert len(set(tenants)) <= max(2, len(rows) // 60)


def test_tenants_differ_in_what_they_send() -> None:
    """Or their history would say nothing: tenants' mean lengths spread far wider than chance would have it."""
    rng = np.random.default_rng(0)
    label = np.exp(rng.normal(4, 1, size=3000))
    part = np.array(["x", "y", "z"])[rng.integers(0, 3, 3000)]
    tenants = np.array(assign_tenants(part, label, rng))
    logs = np.log1p(label)

    def spread(names: np.ndarray) -> float:
        means = [logs[names == name].mean() for name in np.unique(names) if (names == name).sum() >= 20]
        return float(np.std(means))

    assert spread(tenants) > 2 * spread(rng.permutation(tenants))


@given(st.integers(1, 80), st.integers(0, 99))
def test_rows_arrive_in_the_order_they_are_given(rows: int, seed: int) -> None:
    """One after another, each finishing after it came, longer answers later."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)
    label = rng.integers(0, 500, rows).astype(float)
    arrivals = simulate_arrivals(order, label, rng)
    assert (np.diff(arrivals.arrival_s[order]) > 0).all()
    np.testing.assert_allclose(arrivals.finish_s - arrivals.arrival_s, 0.02 * (1 + label), rtol=1e-6)


def test_about_thirty_two_answers_run_at_once() -> None:
    """A busy engine's worth: much of what one would like to know has not finished yet."""
    rng = np.random.default_rng(0)
    label = np.exp(rng.normal(4, 1, size=4000))
    arrivals = simulate_arrivals(np.arange(4000), label, rng)
    running = [
        ((arrivals.arrival_s <= now) & (arrivals.finish_s > now)).sum() for now in arrivals.arrival_s[500:]
    ]
    assert 20 < np.mean(running) < 48


def test_a_row_sees_exactly_those_that_finished_before_it_came() -> None:
    """At the very moment counts, a moment later does not; a cut answer is not counted; others' tenants are not."""
    arrivals = Arrivals(np.array([0.0, 0.0, 0.0, 0.0, 5.0]), np.array([5.0, 5.1, 1.0, 1.0, 9.0]))
    keys = [key("a"), key("a"), key("a"), key("b"), key("a")]
    censored = np.array([False, False, True, False, False])
    features = replay_history(keys, np.full(5, 10.0), censored, arrivals)
    assert np.expm1(features[4, COUNT]).round() == 1
    assert (features[:4, COUNT] == 0).all()


def test_a_repeated_prompt_has_answers_from_before_it_came() -> None:
    """About a quarter of the rows, none of them cut; they are in the prompt's history, and near its length."""
    rng = np.random.default_rng(0)
    label, cut = np.full(2_000, 100.0), rng.random(2_000) < 0.5
    arrivals = simulate_arrivals(np.arange(2_000), label, rng)
    repeats = simulate_repeats(label, cut, arrivals, rng)
    assert not cut[repeats.row].any()
    assert (repeats.finish_s < arrivals.arrival_s[repeats.row]).all()
    assert 200 < len(set(repeats.row.tolist())) < 300
    keys = [HistoryKey((f"p{row}", "s", "o", "t", "m")) for row in range(2_000)]
    known = replay_history(keys, label, cut, arrivals, repeats)
    mean = known[:, HISTORY_NAMES.index("history.prompt.mean")]
    assert set(np.flatnonzero(~np.isnan(mean)).tolist()) == set(repeats.row.tolist())
    assert abs(np.nanmean(mean) - np.log1p(100)) < 0.1
