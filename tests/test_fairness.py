"""Jain's index of what tenants were served lately: right for a few, bounded for very many."""

import pytest

from proxy.fairness import Fairness


def test_even_service_is_one_and_a_single_receiver_one_over_n() -> None:
    """By weight: whoever weighs twice and gets twice is even; served alone among four counts a quarter."""
    weights = {"double": 2.0}
    even = Fairness(lambda tenant: weights.get(tenant, 1.0))
    even.served("double", 2_000, 0)
    even.served("single", 1_000, 0)
    assert even.jain(0) == pytest.approx(1.0)
    uneven = Fairness(lambda _: 1.0)
    for tenant, tokens in (("all", 1e9), ("a", 1.0), ("b", 1.0), ("c", 1.0)):
        uneven.served(tenant, tokens, 0)
    assert uneven.jain(0) == pytest.approx(0.25, rel=1e-3)


def test_what_was_served_fades() -> None:
    """After half an hour an old favour counts no more."""
    fairness = Fairness(lambda _: 1.0)
    fairness.served("old", 1e6, 0)
    for tenant in ("a", "b"):
        fairness.served(tenant, 1_000, 1_800_000_000)
    assert fairness.jain(1_800_000_000) == pytest.approx(1.0)


def test_ever_new_tenants_are_forgotten_the_least_served_first() -> None:
    """However many names come, some thousand are kept, and those who got most are among them."""
    fairness = Fairness(lambda _: 1.0)
    for number in range(50_000):
        fairness.served(f"t{number}", 1_000.0 if number % 100 == 0 else 10.0, number)
        assert len(fairness._served) <= 2_000
    assert all(f"t{number}" in fairness._served for number in range(0, 49_000, 100))
