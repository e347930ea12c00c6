"""Between retrainings: by how much each tenant's and template's answers are longer than the artifact expects.

Told the time. Ratios of decayed sums, each level drawn towards the one above it by a few imagined requests:
everybody, tenant, system prompt, opening words. The sums are of the artifact's own expectation, never of a
corrected one, so a correction does not feed on itself.
"""

import math
from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from predictor.history import HistoryKey

_HALF_LIFE_S: Final = 120.0
_MOST_GROUPS: Final = 10_000
# So many requests as expected are imagined with each group: few real ones move it little.
_IMAGINED: Final = 10.0
# One answer counts for no more than this many times what was expected of it, nor less than its inverse.
_MOST_RATIO: Final = 8.0
# Places in HistoryKey.levels, from general to special: tenant, system prompt, opening.
_LEVELS: Final = (3, 1, 2)
_EVERYBODY: Final = ""


class Bias(NamedTuple):
    """Logarithms of actual over expected tokens: of this request's group, and of everybody."""

    group: float
    everybody: float


class _Sums(msgspec.Struct):
    """Decayed to `at_s`: how many requests, what they had, what was expected of them."""

    count: float
    actual: float
    expected: float
    at_s: float

    def decay(self, now_s: float) -> None:
        factor = _decayed(now_s - self.at_s)
        self.count *= factor
        self.actual *= factor
        self.expected *= factor
        self.at_s = now_s


class Recalibration:
    """The ratios of the groups seen lately; beyond `most_groups` the least recently seen go."""

    def __init__(self, most_groups: int = _MOST_GROUPS) -> None:
        self._groups: OrderedDict[str, _Sums] = OrderedDict()
        self._most_groups = most_groups

    def __len__(self) -> int:
        return len(self._groups)

    def bias(self, key: HistoryKey, now_s: float) -> Bias:
        """What has been seen of this request's groups until now; 0 where nothing has."""
        everybody = group = self._drawn(_EVERYBODY, 0.0, now_s)
        for level in _LEVELS:
            group = self._drawn(key.levels[level], group, now_s)
        return Bias(group, everybody)

    def observe(self, key: HistoryKey, expected: float, actual: float, now_s: float) -> None:
        """An answer ended by itself with `actual` tokens where the artifact had `expected` so many."""
        expected = max(1.0, expected)
        counted = min(max(actual, expected / _MOST_RATIO), expected * _MOST_RATIO)
        for name in (_EVERYBODY, *(key.levels[level] for level in _LEVELS)):
            sums = self._groups.setdefault(name, _Sums(0.0, 0.0, 0.0, now_s))
            sums.decay(max(now_s, sums.at_s))
            sums.count += 1
            sums.actual += counted
            sums.expected += expected
            self._groups.move_to_end(name)
        while len(self._groups) > self._most_groups:
            self._groups.popitem(last=False)

    def clear(self) -> None:
        """Another artifact expects from now on."""
        self._groups.clear()

    def _drawn(self, name: str, towards: float, now_s: float) -> float:
        sums = self._groups.get(name)
        if sums is None:
            return towards
        count = sums.count * _decayed(now_s - sums.at_s)
        return (count * math.log(sums.actual / sums.expected) + _IMAGINED * towards) / (count + _IMAGINED)


def _decayed(seconds: float) -> float:
    """What is left of a weight after so long."""
    return math.exp2(-max(0.0, seconds) / _HALF_LIFE_S)
