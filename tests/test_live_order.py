"""Live accuracy is the share of known pairs in the right order, and the guardrail acts on proof alone."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.live_order import Ended, Guardrail, LiveOrder

requests = st.builds(
    Ended,
    st.integers(0, 5).map(lambda tenths: tenths / 5),
    st.floats(1, 100),
    st.integers(1, 6).map(float),
    st.booleans(),
)


def share_by_hand(window: list[Ended]) -> tuple[float, float]:
    """Pairs known and pairs right, one by one."""
    known = right = 0.0
    for one, other in itertools.combinations(window, 2):
        shorter, longer = sorted((one, other), key=lambda ended: ended.actual)
        if shorter.actual == longer.actual or shorter.cut:
            continue
        known += 1
        right += 0.5 if one.quantile == other.quantile else float(shorter.quantile < longer.quantile)
    return known, right


@given(st.lists(requests, min_size=1, max_size=60))
def test_the_window_counts_what_counting_by_hand_counts(seen: list[Ended]) -> None:
    """However many came and went, the share is that of the pairs among the last ones."""
    order = LiveOrder(window=20)
    for ended in seen:
        order.add(ended)
    known, right = share_by_hand(seen[-20:])
    assert order._known.sum() == pytest.approx(2 * known)
    assert order._right.sum() == pytest.approx(2 * right)
    assert order.requests == min(20, len(seen))


def traffic(count: int, flip: float, seed: int = 1) -> list[Ended]:
    """Requests whose predicted quantile is the true one, or with probability `flip` its opposite."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        true = rng.random()
        said = 1 - true if rng.random() < flip else true
        found.append(Ended(said, 100.0, math.exp(3 + 2 * true)))
    return found


def test_little_evidence_says_nothing() -> None:
    """A few requests, or ones of equal length, prove neither good nor bad."""
    order = LiveOrder()
    for ended in traffic(31, flip=1.0):
        order.add(ended)
    assert order.accuracy() is None
    alike = LiveOrder()
    for ended in traffic(200, flip=0.0):
        alike.add(ended._replace(actual=7.0))
    assert alike.accuracy() is None


def test_the_bounds_hold_the_truth() -> None:
    """Over many samples of a ranker of known accuracy its bounds miss the truth about as seldom as 2.5 standard
    errors say, and they narrow as evidence grows."""
    truth = sum(one[1] / one[0] for one in [share_by_hand(traffic(400, 0.3, seed)) for seed in range(3)]) / 3
    missed = 0
    for seed in range(200):
        order = LiveOrder(window=128)
        for ended in traffic(128, 0.3, 1000 + seed):
            order.add(ended)
        accuracy = order.accuracy()
        assert accuracy is not None
        assert accuracy.lowest <= accuracy.share <= accuracy.highest
        missed += not accuracy.lowest - 0.01 <= truth <= accuracy.highest + 0.01
    assert missed <= 10


def feed(guardrail: Guardrail, seen: list[Ended]) -> int | None:
    """After how many requests the verdict changed first."""
    return next((count for count, ended in enumerate(seen, start=1) if guardrail.add(ended)), None)


def test_a_reversed_ranker_falls_at_once_and_a_good_one_comes_back() -> None:
    """Reversed predictions lose the order within a dozen requests; proved good again, they get it back within one
    window, once."""
    guardrail = Guardrail(0.52)
    fell = feed(guardrail, traffic(300, flip=1.0))
    assert fell is not None
    assert fell <= 12
    assert guardrail.accuracy is not None
    assert guardrail.accuracy.share < 0.1
    assert guardrail.fallen
    back = feed(guardrail, traffic(256, flip=0.0, seed=2))
    assert back is not None
    assert not guardrail.fallen
    assert feed(guardrail, traffic(500, flip=0.1, seed=3)) is None


def test_a_weak_ranker_keeps_the_order_and_chance_does_not_get_it_back() -> None:
    """60% right is no proof of harm, and 50% is no proof of worth: what is not proved changes nothing."""
    for seed in range(20):
        assert feed(Guardrail(0.52), traffic(400, flip=0.3, seed=seed)) is None
    fallen = Guardrail(0.52)
    feed(fallen, traffic(100, flip=1.0))
    returned = sum(feed(fallen, traffic(400, flip=0.5, seed=seed)) is not None for seed in range(20))
    assert returned <= 2


@pytest.mark.parametrize("flip", [0.9, 1.0])
def test_having_been_right_does_not_hide_being_wrong(flip: float) -> None:
    """A ranker that was right for a whole window and is reversed from then on falls within forty requests, and
    does not come back for having been right before."""
    for seed in range(10):
        guardrail = Guardrail(0.52)
        assert feed(guardrail, traffic(300, flip=0.1, seed=seed)) is None
        fell = feed(guardrail, traffic(200, flip=flip, seed=100 + seed))
        assert fell is not None
        assert fell <= 40
        assert feed(guardrail, traffic(200, flip=flip, seed=200 + seed)) is None


def test_a_right_ranker_does_not_fall_some_day() -> None:
    """Asked after each of ten thousand requests, the last few never leave no doubt about one that orders two of
    three pairs rightly."""
    assert feed(Guardrail(0.52), traffic(10_000, flip=0.35)) is None


def test_few_requests_are_judged_by_what_chance_does() -> None:
    """Eight requests in the wrong order throughout are beyond chance; seven are too few, eight of one length say
    nothing."""
    order = LiveOrder()
    wrong = [Ended(-number, 1.0, float(number)) for number in range(8)]
    for ended in wrong[:7]:
        order.add(ended)
    assert order.at_once() is None
    order.add(wrong[7])
    found = order.at_once()
    assert found is not None
    assert found.highest < 0.52
    alike = LiveOrder()
    for ended in wrong:
        alike.add(ended._replace(actual=5.0))
    assert alike.at_once() is None


def test_no_floor_no_fall() -> None:
    """A floor of 0 lets even a reversed ranker order, as the operator said."""
    assert feed(Guardrail(0.0), traffic(400, flip=1.0)) is None


def test_another_ranker_has_to_prove_itself() -> None:
    """After a change of artifact nothing is held for or against it, and a fall stays until it is proved."""
    guardrail = Guardrail(0.52)
    feed(guardrail, traffic(100, flip=1.0))
    guardrail.begin_anew()
    assert guardrail.order.accuracy() is None
    assert guardrail.fallen
    back = feed(guardrail, traffic(100, flip=0.0))
    assert back is not None
    assert back <= 40


def test_drift_is_expected_over_actual() -> None:
    """It is the ratio of sums; answers cut at a limit count as far as they came, as long as was expected at least."""
    order = LiveOrder()
    assert order.drift() is None
    for _ in range(40):
        order.add(Ended(0.5, 100.0, 50.0))
        order.add(Ended(0.5, 1e6, 1.0, cut=True))
    assert order.drift() == pytest.approx((100 + 1) / (50 + 1))
    for _ in range(128):
        order.add(Ended(0.5, 50.0, 50.0))
        order.add(Ended(0.5, 50.0, 200.0, cut=True))
    assert order.drift() == pytest.approx((50 + 50) / (50 + 200))
