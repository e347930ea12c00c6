"""How evenly tenants were served lately: Jain's index of their tokens over weight."""

from collections.abc import Callable
from heapq import nlargest
from math import exp
from typing import Final

_MEMORY_S: Final = 60.0
# Where there are twice as many tenants the least served half is forgotten: seldom, as looking at all takes a while.
_MOST: Final = 1_000


class Fairness:
    """Tokens served per tenant, fading over about a minute."""

    def __init__(self, weight_of: Callable[[str], float]) -> None:
        """`weight_of`: a tenant's weight, as it is now."""
        self._weight_of = weight_of
        self._served: dict[str, tuple[float, int]] = {}

    def served(self, tenant: str, tokens: float, now_us: int) -> None:
        """A tenant's answer ended, of so many prompt and output tokens."""
        before = self._now(tenant, now_us)
        self._served[tenant] = (before + tokens / self._weight_of(tenant), now_us)
        if len(self._served) > 2 * _MOST:
            most = nlargest(_MOST, self._served, key=lambda name: self._now(name, now_us))
            self._served = {name: self._served[name] for name in most}

    def jain(self, now_us: int) -> float:
        """1 where all tenants served lately got alike, 1/n where one of n got all."""
        shares = [share for name in self._served if (share := self._now(name, now_us)) > 0.5]
        return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)) if shares else 1.0

    def _now(self, tenant: str, now_us: int) -> float:
        tokens, at_us = self._served.get(tenant, (0.0, now_us))
        return tokens * exp(-(now_us - at_us) / 1e6 / _MEMORY_S)
