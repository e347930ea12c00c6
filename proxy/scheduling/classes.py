"""Classes of service: how much worse, how strict, by which policy, and when."""

from collections.abc import Sequence
from typing import Final

import msgspec

from proxy.scheduling.policy import MICROSECONDS, Fcfs, Policy

_DAY_MINUTES: Final = 24 * 60


class ServiceClass(msgspec.Struct, frozen=True):
    """One class. Lower tiers go strictly first; inside a tier `offset_us` counts as later arrival.

    `ttl_us`: default time to be sent. `min_share` of the dispatches goes to its tier whatever waits above;
    `window_share` is the most of an engine's window that its tier may hold; `hours` are UTC minutes of the
    day, from and to (to may be smaller: over midnight), outside of which its tier is not sent.
    """

    name: str
    policy: Policy
    tier: int = 0
    offset_us: int = 0
    ttl_us: int | None = None
    min_share: float = 0.0
    window_share: float = 1.0
    hours: tuple[tuple[int, int], ...] = ()

    @property
    def rank(self) -> tuple[int, int]:
        """Order of classes: a client may move to a higher rank, never to a lower one."""
        return (self.tier, self.offset_us)

    def is_open(self, now_us: int) -> bool:
        """Whether its hours allow sending now."""
        if not self.hours:
            return True
        minute = now_us // (60 * MICROSECONDS) % _DAY_MINUTES
        return any(
            begin <= minute < end if begin <= end else minute >= begin or minute < end
            for begin, end in self.hours
        )


def default_classes(policy: Policy) -> tuple[ServiceClass, ...]:
    """`interactive` before `standard` by ten seconds' worth of arrival, `batch` in a tier of its own.

    An unbounded policy's keys are no times, so its classes have a tier each.
    """
    if policy.overtake_bound_us is None:
        return (
            ServiceClass("interactive", policy),
            ServiceClass("standard", policy, tier=1, min_share=0.05),
            ServiceClass("batch", Fcfs(), tier=2, min_share=0.05),
        )
    return (
        ServiceClass("interactive", policy),
        ServiceClass("standard", policy, offset_us=10 * MICROSECONDS),
        ServiceClass("batch", Fcfs(), tier=1, min_share=0.05),
    )


def check_classes(classes: Sequence[ServiceClass]) -> None:
    """Raise ValueError where the classes contradict each other."""
    names = [service.name for service in classes]
    if len(set(names)) < len(names):
        raise ValueError("two classes have the same name")
    for tier in {service.tier for service in classes}:
        members = [service for service in classes if service.tier == tier]
        if len({(m.min_share, m.window_share, m.hours) for m in members}) > 1:
            raise ValueError(f"classes of tier {tier} differ in min_share, window_share or hours")
        if len(members) > 1 and any(member.policy.overtake_bound_us is None for member in members):
            raise ValueError(f"tier {tier}: a class with an unbounded policy needs a tier of its own")
