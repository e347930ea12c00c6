"""How well predictions order what really comes: pairwise accuracy over the requests that ended last.

Told everything; no clock. Answers cut at a limit count as lower bounds (Harrell's C: a pair is known where the
shorter of the two is not cut), because leaving them out would leave out the longest.
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

_WINDOW: Final = 256
_FEWEST: Final = 32
_FEWEST_PAIRS: Final = 200
_STANDARD_ERRORS: Final = 2.5
# The last few requests alone are asked after each of them, for ever: so only what lies this many standard errors
# of pure chance below the floor counts, or a ranker that is right would fall some day.
_LAST: Final = 32
_FEWEST_LAST: Final = 8
_BEYOND_DOUBT: Final = 3.6
# A little above chance, 0.5: what is not proved to be better than that is not worth an order.
FLOOR: Final = 0.52

_Doubles = npt.NDArray[np.float64]


class Ended(NamedTuple):
    """One ended request: the predicted `quantile` and `expected` tokens, the `actual` ones, and whether a limit
    cut them."""

    quantile: float
    expected: float
    actual: float
    cut: bool = False


class Accuracy(NamedTuple):
    """Share of known pairs in the right order (ties in the prediction count half), and its bounds."""

    share: float
    lowest: float
    highest: float


class LiveOrder:
    """The last requests, compared with one another; one more costs two passes over the window."""

    def __init__(self, window: int = _WINDOW) -> None:
        self._quantile: _Doubles = np.zeros(window)
        self._expected: _Doubles = np.zeros(window)
        # NaN is nobody: it compares with nothing.
        self._actual: _Doubles = np.full(window, math.nan)
        self._cut = np.zeros(window, dtype=np.bool_)
        self._right: _Doubles = np.zeros(window)
        self._known: _Doubles = np.zeros(window)
        self._next = 0
        self.requests = 0

    def add(self, ended: Ended) -> None:
        """Take one in; the oldest goes where the window is full."""
        place, self._next = self._next, (self._next + 1) % len(self._actual)
        if math.isnan(self._actual[place]):
            self.requests += 1
        else:
            known, right = self._against(place)
            self._known -= known
            self._right -= right
        self._quantile[place], self._expected[place] = ended.quantile, ended.expected
        self._actual[place], self._cut[place] = ended.actual, ended.cut
        known, right = self._against(place)
        self._known += known
        self._right += right
        self._known[place], self._right[place] = known.sum(), right.sum()

    def accuracy(self) -> Accuracy | None:
        """None while too few pairs are known. Bounds by Hoeffding's projection: pairs that share a request are
        not independent, requests are."""
        pairs = self._known.sum()
        if self.requests < _FEWEST or pairs < 2 * _FEWEST_PAIRS:
            return None
        share = self._right.sum() / pairs
        influence = 2 * (self._right - share * self._known)
        error = _STANDARD_ERRORS * math.sqrt(influence @ influence) / pairs
        return Accuracy(float(share), float(max(0.0, share - error)), float(min(1.0, share + error)))

    def at_once(self) -> Accuracy | None:
        """The same from as few as eight requests, with bounds that leave no doubt; None while pairs are too few.

        Few requests tell nothing of their own spread, so that of pure chance is taken, Kendall's tau without ties:
        variance 2 (2n + 5) / 9n (n - 1); more where pairs are unknown.
        """
        count, pairs = self.requests, self._known.sum() / 2
        if count < _FEWEST_LAST or pairs < count:
            return None
        share = self._right.sum() / 2 / pairs
        error = _BEYOND_DOUBT * math.sqrt((2 * count + 5) / (36 * pairs))
        return Accuracy(float(share), float(max(0.0, share - error)), float(min(1.0, share + error)))

    def drift(self) -> float | None:
        """Expected over actual tokens of the window's requests, cut ones as far as they came; None while those that
        ended by themselves are too few."""
        counted = ~np.isnan(self._actual)
        actual = self._actual[counted].sum()
        if (counted & ~self._cut).sum() < _FEWEST or actual <= 0:
            return None
        expected = np.where(self._cut, np.minimum(self._expected, self._actual), self._expected)
        return float(expected[counted].sum() / actual)

    def clear(self) -> None:
        """Forget everything."""
        self._actual.fill(math.nan)
        self._known.fill(0)
        self._right.fill(0)
        self._next = self.requests = 0

    def _against(self, place: int) -> tuple[_Doubles, _Doubles]:
        """Of the pairs of one request with each other: which are known (1 or 0), and how right (1, 1/2 or 0)."""
        longer = self._actual[place] - self._actual
        known = ((longer > 0) & ~self._cut) | ((longer < 0) & (not self._cut[place]))
        agreed = np.sign(longer) * np.sign(self._quantile[place] - self._quantile)
        return known.astype(np.float64), np.where(known, (1 + agreed) / 2, 0.0)


class Guardrail:
    """Whether the ranker may order, decided by its live accuracy: proved below the floor it may not, proved above
    it may again; in between it stays as it was.

    A fall is proved by the whole window, or sooner by the last requests alone where they leave no doubt.
    """

    def __init__(self, floor: float) -> None:
        """`floor` in [0, 1): 0 lets every ranker order."""
        self._floor = floor
        self.order = LiveOrder()
        self._last = LiveOrder(_LAST)
        self.fallen = False
        self._proof: Accuracy | None = None

    @property
    def accuracy(self) -> Accuracy | None:
        """The window's or, while that knows too little, the one that brought the last verdict on this ranker."""
        return self.order.accuracy() or self._proof

    def add(self, ended: Ended) -> bool:
        """Take in one ended request; True where the verdict has changed."""
        self.order.add(ended)
        self._last.add(ended)
        before = self.fallen
        accuracy, last = self.order.accuracy(), None if before else self._last.at_once()
        if last is not None and last.highest < self._floor:
            # That it was right before this must not bring it back.
            self.order.clear()
            self.fallen, self._proof = True, last
        elif accuracy is not None:
            self.fallen = accuracy.lowest <= self._floor if before else accuracy.highest < self._floor
            self._proof = accuracy
        return self.fallen is not before

    def begin_anew(self) -> None:
        """Another ranker predicts from now on: evidence is gathered anew. The verdict stays until it is in."""
        self.order.clear()
        self._last.clear()
        self._proof = None
