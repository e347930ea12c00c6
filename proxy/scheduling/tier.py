"""A strict tier: its tenants, and how much of the dispatches and of a window it may have."""

import math

from proxy.scheduling.classes import ServiceClass
from proxy.scheduling.fair import FairQueue, Presence, TenantLimits


class Tier:
    """Tiers go strictly in order, except that each may claim its `min_share` of the dispatches."""

    def __init__(
        self,
        number: int,
        member: ServiceClass,
        limits: dict[str, TenantLimits],
        lane_share: float,
        presences: dict[str, Presence],
    ) -> None:
        """`member`: any class of the tier; they agree in what is read here. `presences`: shared by all tiers."""
        self.number = number
        self.queue = FairQueue(limits, lane_share, presences)
        self._member = member
        self._credit = 0.0

    def __repr__(self) -> str:
        return f"<Tier {self.number} waiting={len(self.queue)}>"

    @property
    def claims(self) -> bool:
        """Whether its share has come due."""
        return self._credit >= 1.0

    @property
    def min_share(self) -> float:
        """The share of the dispatches that it may claim."""
        return self._member.min_share

    def is_open(self, now_us: int) -> bool:
        """Whether its hours allow sending now."""
        return self._member.is_open(now_us)

    def dispatched(self, *, here: bool) -> None:
        """Somebody was sent while somebody waited here; `here`: it was one of this tier."""
        credit = self._credit + self._member.min_share
        self._credit = max(0.0, credit - 1.0) if here else min(credit, 1.0)

    def may_use(self, window: int | None, used: int, now_us: int) -> bool:
        """Whether a replica with `window`, of which this tier uses `used`, may take one more of it."""
        if not self.is_open(now_us):
            return False
        return window is None or used < max(1, math.floor(window * self._member.window_share))
