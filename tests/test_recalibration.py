"""Between retrainings expected tokens follow each tenant and template, within minutes and within bounds."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.history import HistoryKey
from predictor.recalibration import Recalibration


def key(tenant: str, system: str = "s", opening: str = "o") -> HistoryKey:
    """The key of a request of a tenant with a system prompt and an opening."""
    return HistoryKey(("p", f"{tenant}/{system}", f"{tenant}/{system}/{opening}", tenant, "m"))


def test_nothing_seen_nothing_changed() -> None:
    """A fresh proxy expects what the artifact says."""
    assert Recalibration().bias(key("a"), 0.0) == (0.0, 0.0)


def test_drift_of_one_tenant_is_followed_within_minutes_and_only_there() -> None:
    """A tenant whose answers become four times as long is expected half-way right after two minutes and within
    20% after six, at one request a second; one that stayed as it was stays expected within 20%."""
    recalibration = Recalibration()
    rng = random.Random(1)
    after: dict[int, float] = {}
    for second in range(960):
        for tenant in ("changes", "stays"):
            factor = 4.0 if tenant == "changes" and second >= 600 else 1.0
            actual = 100 * factor * rng.lognormvariate(-0.125, 0.5)
            recalibration.observe(key(tenant), 100.0, actual, float(second))
        after[second - 600] = recalibration.bias(key("changes"), float(second)).group
    assert after[-1] == pytest.approx(0, abs=0.2)
    assert after[120] > math.log(4) / 2
    assert after[359] == pytest.approx(math.log(4), abs=0.2)
    assert recalibration.bias(key("stays"), 960.0).group == pytest.approx(0, abs=0.2)


def test_a_new_template_inherits_from_its_tenant_and_a_new_tenant_from_everybody() -> None:
    """Where nothing is known of a group, what is known of the one above it holds."""
    recalibration = Recalibration()
    for _ in range(200):
        recalibration.observe(key("a", "known"), 100.0, 300.0, 0.0)
    everybody = recalibration.bias(key("b"), 0.0)
    assert everybody.group == everybody.everybody == pytest.approx(math.log(3), rel=0.1)
    assert recalibration.bias(key("a", "new"), 0.0).group >= everybody.group
    assert recalibration.bias(key("a", "known"), 0.0).group == pytest.approx(math.log(3), rel=0.02)


def test_few_answers_move_little_and_silence_forgets() -> None:
    """One answer moves the expectation by a fraction of its surprise; after an hour of silence nothing is left."""
    recalibration = Recalibration()
    recalibration.observe(key("a"), 100.0, 800.0, 0.0)
    assert 0 < recalibration.bias(key("a"), 0.0).group < math.log(8) / 2
    assert recalibration.bias(key("a"), 3600.0).group == pytest.approx(0, abs=0.01)


@given(st.lists(st.tuples(st.floats(0, 1e8), st.floats(0, 1e8), st.floats(0, 1e9)), min_size=1, max_size=50))
def test_the_bias_is_bounded_whatever_comes(seen: list[tuple[float, float, float]]) -> None:
    """Zero, absurd and out of order: the bias stays a number within a factor of eight."""
    recalibration = Recalibration()
    for expected, actual, now_s in seen:
        recalibration.observe(key("a"), expected, actual, now_s)
        for then_s in (0.0, now_s, now_s + 1e6):
            bias = recalibration.bias(key("a"), then_s)
            assert all(abs(value) <= math.log(8) + 1e-9 for value in bias)


def test_memory_is_bounded() -> None:
    """A client that invents openings without end drives out the groups seen longest ago, no more."""
    recalibration = Recalibration(most_groups=100)
    for number in range(10_000):
        recalibration.observe(key("a", "s", str(number)), 100.0, 300.0, number / 100)
    assert len(recalibration) == 100
    assert recalibration.bias(key("a", "s", "new"), 100.0).group == pytest.approx(math.log(3), rel=0.1)
