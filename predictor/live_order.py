"""How well predictions order what really comes: pairwise accuracy over the requests that began last.

Told everything, the time too. Who begins is chosen by predictions alone, who has ended is not: of a crowd that is served
shortest first, those of the late ones have ended that were predicted too long, and the early ones still run that were
predicted too short, so that among the ended alone even a good ranker looks reversed. So requests are taken as they
begin, and one that still runs is known to be longer than whoever took less time. Answers cut at a limit count as lower
bounds for the same reason (Harrell's C: a pair is known where the shorter of the two has ended by itself).
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

# So many that have ended are looked at, with all that began since the first of them did; of more than the second
# number every n-th, which costs a millisecond or less.
_WINDOW: Final = 256
_MOST: Final = 320
# More than run at once; whoever is forgotten while it runs is never known.
_REMEMBERED: Final = 8_192
_FEWEST: Final = 32
_FEWEST_PAIRS: Final = 200
_STANDARD_ERRORS: Final = 2.5
# The last few requests alone are asked about again and again, for ever: so only what lies this many standard errors
# of pure chance below the floor counts, or a ranker that is right would fall some day.
_LAST: Final = 32
_FEWEST_LAST: Final = 8
# A large crowd begins in the order of its predictions: the last few of it stand so close together that a good ranker too
# orders them by chance. Then more of the past is looked at, until places deviate by so much (all have 0.29).
_WIDE: Final = 0.1
# Of those that drift is measured on at most one of so many still runs.
_STRAGGLERS: Final = 32
_BEYOND_DOUBT: Final = 3.6
_NOBODY: Final = -1
# Whoever judges does so this often: more would prove nothing sooner.
JUDGED_EVERY_S: Final = 0.5
# A little above chance, 0.5: what is not proved to be better than that is not worth an order.
FLOOR: Final = 0.52

_Doubles = npt.NDArray[np.float64]


class Accuracy(NamedTuple):
    """Share of known pairs in the right order (ties in the prediction count half), and its bounds."""

    share: float
    lowest: float
    highest: float


class _Pairs(NamedTuple):
    """The known pairs: of each request, in how many it is the shorter one, the longer one, and how many are right."""

    shorter: _Doubles
    longer: _Doubles
    right: _Doubles

    @property
    def known(self) -> float:
        return float(self.shorter.sum())

    @property
    def share(self) -> float:
        return float(self.right.sum()) / 2 / self.known

    @property
    def chance(self) -> float:
        """The standard error of the share where predictions are in random order.

        Then two pairs that have one request in common agree by 1/3 where it is the shorter or the longer of both, and
        by -1/3 elsewhere. Where all pairs are known this is Kendall's: variance 2 (2n + 5) / 9n (n - 1) of tau.
        """
        lean = self.longer - self.shorter
        return math.sqrt((self.known + lean @ lean) / 3) / 2 / self.known


class LiveOrder:
    """The last requests that began, compared with one another; a verdict takes up to a millisecond."""

    def __init__(self) -> None:
        self._ticket = np.full(_REMEMBERED, _NOBODY)
        # NaN is nobody, or nobody has said it yet: it compares with nothing.
        self._quantile: _Doubles = np.full(_REMEMBERED, math.nan)
        self._expected: _Doubles = np.zeros(_REMEMBERED)
        self._began_us: _Doubles = np.zeros(_REMEMBERED)
        # NaN while it runs; the tokens stay so where it left without a length.
        self._took_us: _Doubles = np.full(_REMEMBERED, math.nan)
        self._actual: _Doubles = np.full(_REMEMBERED, math.nan)
        self._cut = np.zeros(_REMEMBERED, dtype=np.bool_)
        self._next = 0

    @property
    def requests(self) -> int:
        """How many ended ones with a length are looked at."""
        return int(np.count_nonzero(self._known_lengths(self._latest(_WINDOW))))

    def begin(self, now_us: int, quantile: float = math.nan, expected: float = math.nan) -> int:
        """One has begun, with these predictions or before they are made; gives the ticket to name it by."""
        ticket, self._next = self._next, self._next + 1
        place = ticket % _REMEMBERED
        self._ticket[place], self._began_us[place] = ticket, now_us
        self._took_us[place] = self._actual[place] = math.nan
        self._quantile[place], self._expected[place] = quantile, expected
        return ticket

    def predict(self, ticket: int, quantile: float, expected: float) -> None:
        """What is predicted of one that has begun; nothing where it has gone."""
        place = ticket % _REMEMBERED
        if self._ticket[place] == ticket:
            self._quantile[place], self._expected[place] = quantile, expected

    def end(self, ticket: int, now_us: int, actual: float = math.nan, *, cut: bool = False) -> None:
        """It has ended, after so many tokens if that is known; `cut`: there would have been more."""
        place = ticket % _REMEMBERED
        if self._ticket[place] == ticket:
            self._took_us[place] = now_us - self._began_us[place]
            self._actual[place], self._cut[place] = actual, cut

    def accuracy(self, now_us: int) -> Accuracy | None:
        """None while too few pairs are known. Bounds by Hoeffding's projection: pairs that share a request are
        not independent, requests are."""
        pairs = self._pairs(now_us, self._wide_enough())
        if np.count_nonzero(pairs.shorter) < _FEWEST or pairs.known < _FEWEST_PAIRS:
            return None
        influence = pairs.right - pairs.share * (pairs.shorter + pairs.longer)
        error = _STANDARD_ERRORS * math.sqrt(influence @ influence) / pairs.known
        return _around(pairs.share, error)

    def at_once(self, now_us: int) -> Accuracy | None:
        """The same from as few as eight requests, with bounds that leave no doubt; None while pairs are too few.

        Few requests tell nothing of their own spread, so that of pure chance is taken.
        """
        pairs = self._pairs(now_us, _LAST)
        requests = np.count_nonzero(pairs.shorter + pairs.longer)
        if requests < _FEWEST_LAST or pairs.known < requests:
            return None
        return _around(pairs.share, _BEYOND_DOUBT * pairs.chance)

    def drift(self) -> float | None:
        """Expected over actual tokens of requests that began one after another, cut ones as far as they came; None
        while those that ended by themselves are too few.

        Of the latest that nearly all have ended: of later ones the short have, so that they look expected too long.
        """
        latest = self._over()
        latest = latest[self._known_lengths(latest)]
        actual, cut = self._actual[latest], self._cut[latest]
        if np.count_nonzero(~cut) < _FEWEST or actual.sum() <= 0:
            return None
        expected = self._expected[latest]
        return float(np.where(cut, np.minimum(expected, actual), expected).sum() / actual.sum())

    def clear(self) -> None:
        """Forget everything."""
        self._ticket.fill(_NOBODY)
        self._quantile.fill(math.nan)
        self._actual.fill(math.nan)

    def _predicted(self) -> npt.NDArray[np.int_]:
        """The places of all that are remembered, oldest first."""
        places = np.arange(max(0, self._next - _REMEMBERED), self._next) % _REMEMBERED
        return places[~np.isnan(self._quantile[places])]

    def _over(self) -> npt.NDArray[np.int_]:
        """The places of the latest so many that began one after another and have nearly all ended; maybe none."""
        places = self._predicted()
        count = min(_WINDOW, len(places))
        running = np.concatenate([[0], np.cumsum(np.isnan(self._took_us[places]))])
        over = np.flatnonzero((running[count:] - running[: len(running) - count]) * _STRAGGLERS <= count)
        return places[over[-1] : over[-1] + count] if len(over) else places[:0]

    def _wide_enough(self) -> int:
        """How many that have ended must be looked at for predictions to lie apart, or half as far as all do."""
        everybody = self._quantile[self._predicted()]
        ended = _WINDOW
        if len(everybody) > ended:
            wide = min(_WIDE, everybody.std() / 2)
            while ended < _REMEMBERED and self._quantile[self._latest(ended)].std() < wide:
                ended *= 2
        return ended

    def _latest(self, ended: int) -> npt.NDArray[np.int_]:
        """The places of the last so many that have ended with a length, and of all that began since; oldest first."""
        places = self._predicted()
        lengths = np.flatnonzero(self._known_lengths(places))
        return places[lengths[-ended] :] if len(lengths) > ended else places

    def _known_lengths(self, places: npt.NDArray[np.int_]) -> npt.NDArray[np.bool_]:
        return ~np.isnan(self._actual[places]) & ~np.isnan(self._quantile[places])

    def _pairs(self, now_us: int, ended: int) -> _Pairs:
        """Row: the shorter one, which has ended by itself; column: the longer one."""
        latest = self._latest(ended)
        latest = latest[:: -(-len(latest) // _MOST) or 1]
        actual, quantile = self._actual[latest], self._quantile[latest]
        took_us = self._took_us[latest]
        took_us = np.where(np.isnan(took_us), now_us - self._began_us[latest], took_us)
        known = np.where(np.isnan(actual), took_us[:, None] < took_us, actual[:, None] < actual)
        known &= (~np.isnan(actual) & ~self._cut[latest])[:, None]
        right = np.where(known, (1 + np.sign(quantile - quantile[:, None])) / 2, 0.0)
        return _Pairs(
            known.sum(axis=1, dtype=np.float64),
            known.sum(axis=0, dtype=np.float64),
            right.sum(axis=1) + right.sum(axis=0),
        )


def _around(share: float, error: float) -> Accuracy:
    return Accuracy(share, max(0.0, share - error), min(1.0, share + error))


class Guardrail:
    """Whether the ranker may order, decided by its live accuracy: proved below the floor it may not, proved above
    it may again; in between it stays as it was.

    A fall is proved by the whole window, or sooner by the last requests alone where they leave no doubt.
    """

    def __init__(self, floor: float) -> None:
        """`floor` in [0, 1): 0 lets every ranker order."""
        self._floor = floor
        self.order = LiveOrder()
        self.fallen = False
        self.accuracy: Accuracy | None = None
        """The window's or, while that knows too little, the one that brought the last verdict on this ranker."""
        self._heard = False

    def begin(self, now_us: int, quantile: float, expected: float) -> int:
        """One has begun that the ranker predicts so; gives its ticket."""
        return self.order.begin(now_us, quantile, expected)

    def end(self, ticket: int, now_us: int, actual: float = math.nan, *, cut: bool = False) -> None:
        """It has ended, after so many tokens if that is known; `cut`: there would have been more."""
        self._heard = True
        self.order.end(ticket, now_us, actual, cut=cut)

    def judge(self, now_us: int) -> bool:
        """Look at all there is; True where the verdict has changed."""
        if not self._heard:
            return False
        self._heard, before = False, self.fallen
        accuracy, last = self.order.accuracy(now_us), None if before else self.order.at_once(now_us)
        if last is not None and last.highest < self._floor:
            # That it was right before this must not bring it back.
            self.order.clear()
            self.fallen, self.accuracy = True, last
        elif accuracy is not None:
            self.fallen = accuracy.lowest <= self._floor if before else accuracy.highest < self._floor
            self.accuracy = accuracy
        return self.fallen is not before

    def begin_anew(self) -> None:
        """Another ranker predicts from now on: evidence is gathered anew. The verdict stays until it is in."""
        self.order.clear()
        self.accuracy = None
