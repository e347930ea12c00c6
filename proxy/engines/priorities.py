"""The numbers that engines order by: the keys, made comparable over tiers and unique among those in flight."""

from typing import Final

# Farther apart than any two keys of one tier (microseconds since 1970 stay below it until the year 2286).
TIER_STEP: Final = 10**16


class Priorities:
    """Gives each request in flight a priority of its own, lower first, within int64 for up to 900 tiers.

    Engines break ties by their own clock, and some versions of vLLM failed on equal ones (vllm#29747).
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, key_us: int, tier: int) -> int:
        """The priority for a key; give it back when the exchange has ended."""
        priority = key_us + tier * TIER_STEP
        while priority in self._taken:
            priority += 1
        self._taken.add(priority)
        return priority

    def give_back(self, priority: int) -> None:
        """The exchange has ended."""
        self._taken.discard(priority)
