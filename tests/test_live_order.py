"""Live accuracy is the share of known pairs in the right order, and the guardrail acts on proof alone."""

import itertools
import math
import random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.live_order import Guardrail, LiveOrder


class Told(NamedTuple):
    """A request: its `quantile` and `expected` tokens as predicted, the `actual` ones, whether a limit cut them."""

    quantile: float
    expected: float
    actual: float
    cut: bool = False


class Life(NamedTuple):
    """One that began at `began` and took so long, unless it still runs or left without a length."""

    told: Told
    began: int
    took: int
    left: bool


told = st.builds(
    Told,
    st.integers(0, 5).map(lambda tenths: tenths / 5),
    st.floats(1, 100),
    st.integers(1, 6).map(float),
    st.booleans(),
)
lives = st.builds(Life, told, st.integers(0, 20), st.integers(1, 12), st.booleans())
NOW = 20


def share_by_hand(seen: list[Life]) -> tuple[float, float]:
    """Pairs known and pairs right, one by one."""
    known = right = 0.0
    for one, other in itertools.permutations(seen, 2):
        if one.left or one.told.cut or one.began + one.took > NOW:
            continue
        if other.left or other.began + other.took > NOW:
            is_longer = min(other.took, NOW - other.began) > one.took
        else:
            is_longer = other.told.actual > one.told.actual
        if is_longer:
            known += 1
            said = other.told.quantile - one.told.quantile
            right += 0.5 if said == 0 else float(said > 0)
    return known, right


@given(st.lists(lives, min_size=1, max_size=60))
def test_pairs_are_those_that_counting_by_hand_counts(seen: list[Life]) -> None:
    """A pair is known where the shorter one ended by itself: by tokens where both have some, else by time."""
    order = LiveOrder()
    tickets = [order.begin(one.began, one.told.quantile, one.told.expected) for one in seen]
    for ticket, one in zip(tickets, seen, strict=True):
        if one.began + one.took <= NOW:
            actual = math.nan if one.left else one.told.actual
            order.end(ticket, one.began + one.took, actual, cut=one.told.cut)
    pairs = order._pairs(NOW, 256)
    known, right = share_by_hand(seen)
    assert pairs.known == known
    assert pairs.right.sum() / 2 == pytest.approx(right)
    ended = [one for one in seen if one.began + one.took <= NOW and not one.left]
    assert order.requests == len(ended)


def test_the_last_that_ended_are_looked_at_with_all_that_began_since() -> None:
    """However many came and went before, and at a bounded cost however many run."""
    order = LiveOrder()
    for _ in range(10_000):
        add(order, Told(0.0, 1.0, 5.0))
    running = [order.begin(0, 1.0) for _ in range(5)]
    for _ in range(299):
        add(order, Told(0.0, 1.0, 7.0))
    assert order.requests == 256
    assert len(order._latest(256)) == 256
    assert len(order._latest(299)) == 299
    assert len(order._latest(300)) == 305
    order.end(running[0], 0, 3.0)
    assert order.requests == 256
    for _ in range(4_000):
        order.begin(0, 1.0)
    assert len(order._pairs(0, 256).shorter) <= 320


def add(order: LiveOrder | Guardrail, one: Told) -> None:
    """It begins and has ended at once."""
    order.end(order.begin(0, one.quantile, one.expected), 0, one.actual, cut=one.cut)


def traffic(count: int, flip: float, seed: int = 1) -> list[Told]:
    """Requests whose predicted quantile is the true one, or with probability `flip` its opposite."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        true = rng.random()
        said = 1 - true if rng.random() < flip else true
        found.append(Told(said, 100.0, math.exp(3 + 2 * true)))
    return found


def share_of(seen: list[Told]) -> float:
    """Of all of them, ended."""
    known, right = share_by_hand([Life(one, 0, 1, left=False) for one in seen])
    return right / known


def test_little_evidence_says_nothing() -> None:
    """A few requests, or ones of equal length, prove neither good nor bad."""
    order = LiveOrder()
    for ended in traffic(31, flip=1.0):
        add(order, ended)
    assert order.accuracy(0) is None
    alike = LiveOrder()
    for ended in traffic(200, flip=0.0):
        add(alike, ended._replace(actual=7.0))
    assert alike.accuracy(0) is None


def test_the_bounds_hold_the_truth() -> None:
    """Over many samples of a ranker of known accuracy its bounds miss the truth about as seldom as 2.5 standard
    errors say, and they narrow as evidence grows."""
    truth = sum(share_of(traffic(400, 0.3, seed)) for seed in range(3)) / 3
    missed = 0
    for seed in range(200):
        order = LiveOrder()
        for ended in traffic(128, 0.3, 1000 + seed):
            add(order, ended)
        accuracy = order.accuracy(0)
        assert accuracy is not None
        assert accuracy.lowest <= accuracy.share <= accuracy.highest
        missed += not accuracy.lowest - 0.01 <= truth <= accuracy.highest + 0.01
    assert missed <= 10


def feed(guardrail: Guardrail, seen: list[Told], every: int = 1) -> int | None:
    """After how many requests, judged as each so many end, the verdict changed first."""
    for count, one in enumerate(seen, start=1):
        add(guardrail, one)
        if count % every == 0 and guardrail.judge(0):
            return count
    return None


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
        assert feed(Guardrail(0.52), traffic(400, flip=0.3, seed=seed), every=4) is None
    fallen = Guardrail(0.52)
    feed(fallen, traffic(100, flip=1.0))
    returned = sum(feed(fallen, traffic(400, flip=0.5, seed=seed), every=4) is not None for seed in range(20))
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
    """Asked two thousand times over ten thousand requests, the last few never leave no doubt about one that orders two
    of three pairs rightly."""
    assert feed(Guardrail(0.52), traffic(10_000, flip=0.35), every=5) is None


def test_few_requests_are_judged_by_what_chance_does() -> None:
    """Eight requests in the wrong order throughout are beyond chance; seven are too few, eight of one length say
    nothing."""
    order = LiveOrder()
    wrong = [Told(-number, 1.0, float(number)) for number in range(8)]
    for ended in wrong[:7]:
        add(order, ended)
    assert order.at_once(0) is None
    add(order, wrong[7])
    found = order.at_once(0)
    assert found is not None
    assert found.highest < 0.52
    alike = LiveOrder()
    for ended in wrong:
        add(alike, ended._replace(actual=5.0))
    assert alike.at_once(0) is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=3, max_size=5))
def test_the_bounds_of_chance_are_exact(begun: list[tuple[int, int]]) -> None:
    """Whatever is known of whom: over all orders of predictions, the share varies as the bounds take for granted."""
    shares, error = [], 0.0
    for quantiles in itertools.permutations(range(len(begun))):
        order = LiveOrder()
        for quantile, (began, took) in zip(quantiles, begun, strict=True):
            ticket = order.begin(began, float(quantile))
            if began + took <= NOW:
                order.end(ticket, began + took, float(took))
        pairs = order._pairs(NOW, 256)
        if not pairs.known:
            return
        shares.append(pairs.share)
        error = pairs.chance
    assert sum(shares) / len(shares) == pytest.approx(0.5)
    assert math.sqrt(sum((one - 0.5) ** 2 for one in shares) / len(shares)) == pytest.approx(error)


def test_no_floor_no_fall() -> None:
    """A floor of 0 lets even a reversed ranker order, as the operator said."""
    assert feed(Guardrail(0.0), traffic(400, flip=1.0)) is None


def test_another_ranker_has_to_prove_itself() -> None:
    """After a change of artifact nothing is held for or against it, and a fall stays until it is proved."""
    guardrail = Guardrail(0.52)
    feed(guardrail, traffic(100, flip=1.0))
    guardrail.begin_anew()
    assert guardrail.accuracy is None
    assert guardrail.fallen
    back = feed(guardrail, traffic(100, flip=0.0))
    assert back is not None
    assert back <= 40


def test_drift_is_expected_over_actual() -> None:
    """It is the ratio of sums; answers cut at a limit count as far as they came, as long as was expected at least."""
    order = LiveOrder()
    assert order.drift() is None
    for _ in range(40):
        add(order, Told(0.5, 100.0, 50.0))
        add(order, Told(0.5, 1e6, 1.0, cut=True))
    assert order.drift() == pytest.approx((100 + 1) / (50 + 1))
    for _ in range(128):
        add(order, Told(0.5, 50.0, 50.0))
        add(order, Told(0.5, 50.0, 200.0, cut=True))
    assert order.drift() == pytest.approx((50 + 50) / (50 + 200))
