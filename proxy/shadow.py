"""A shadow: an artifact that orders nothing, but whose predictions are held against what came."""

import logging
from collections import deque
from typing import Final

import msgspec

from predictor.features.extractor import FeatureExtractor
from predictor.features.schema import Features, Schema, align
from predictor.features.view import read_view
from predictor.history import HISTORY_NAMES
from predictor.lightgbm_ranker import LightGBMRanker
from predictor.live_order import Accuracy, LiveOrder
from predictor.prediction import Prediction
from predictor.request import Api, RequestBody

_LOG: Final = logging.getLogger("headway.shadow")
MOST_SAMPLES: Final = 16
_HISTORY: Final = Schema.of(HISTORY_NAMES)


class Sample(msgspec.Struct, frozen=True):
    """A request with what the shadow needs to predict it as of its arrival; `scored` is the champion's prediction."""

    api: Api
    body: RequestBody
    features: Features
    scored: Prediction


class Shadow:
    """Scores some requests, the first few that begin in each half second, and compares with the champion on them."""

    def __init__(self) -> None:
        self._ranker: LightGBMRanker | None = None
        self._extractor: FeatureExtractor | None = None
        self._waiting: deque[tuple[int, Sample]] = deque()
        # In step: what begins in one begins in the other, so that a ticket of one is one of the other.
        self._order = LiveOrder()
        self._champion = LiveOrder()
        self.accuracies: tuple[Accuracy | None, Accuracy | None] = (None, None)
        """The shadow's and the champion's, on the same requests, as last judged."""

    @property
    def artifact_id(self) -> str | None:
        """Whose shadow it is; None where there is none."""
        return None if self._ranker is None else self._ranker.artifact_id

    @property
    def requests(self) -> int:
        """How many requests the comparison rests on."""
        return self._order.requests

    def take(self, ranker: LightGBMRanker | None) -> None:
        """Watch this artifact from now on; None: none."""
        self._ranker = ranker
        self._extractor = None if ranker is None else FeatureExtractor(ranker.artifact.head)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Another champion serves: the comparison begins again."""
        self._waiting.clear()
        self._order.clear()
        self._champion.clear()
        self.accuracies = (None, None)

    def begin(self, sample: Sample, now_us: int) -> int | None:
        """A request has begun; gives a ticket where it is taken for a sample.

        As it begins, and not as it ends: those that end first are the short ones.
        """
        if len(self._waiting) >= MOST_SAMPLES:
            return None
        ticket = self._order.begin(now_us)
        self._champion.begin(now_us)
        self._waiting.append((ticket, sample))
        return ticket

    def end(self, ticket: int, now_us: int, actual: float, *, cut: bool) -> None:
        """A sample has ended; NaN: without a length."""
        for order in (self._order, self._champion):
            order.end(ticket, now_us, actual, cut=cut)

    def judge(self, now_us: int) -> None:
        """Compare anew."""
        if self._ranker is not None:
            self.accuracies = (self._order.accuracy(now_us), self._champion.accuracy(now_us))

    def score_one(self) -> None:
        """Score one of those that wait, if any. Costs what a request's prediction costs."""
        if not self._waiting or self._ranker is None:
            return
        ticket, sample = self._waiting.popleft()
        try:
            prediction = self._ranker.score(self._features(sample))
        except Exception:  # noqa: BLE001 - a broken shadow must end itself alone
            _LOG.exception("the shadow %s failed and is watched no longer", self.artifact_id)
            self.take(None)
            return
        self._order.predict(ticket, prediction.quantile, prediction.tokens)
        self._champion.predict(ticket, sample.scored.quantile, sample.scored.tokens)

    def _features(self, sample: Sample) -> Features:
        """The champion's vector where both read the same; else the shadow's own, with the history that the
        champion's had: what has been learned since must not help it."""
        assert self._extractor is not None
        known = sample.features
        if known.schema.id == self._extractor.schema.id:
            return known
        history = align(known.values, known.schema.names, _HISTORY)
        return self._extractor.extract(sample.body, read_view(sample.body), history, sample.api)
