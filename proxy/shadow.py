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
from predictor.live_order import Accuracy, Ended, LiveOrder
from predictor.request import Api, RequestBody

_LOG: Final = logging.getLogger("headway.shadow")
MOST_SAMPLES: Final = 16
_HISTORY: Final = Schema.of(HISTORY_NAMES)


class Sample(msgspec.Struct, frozen=True):
    """An ended request with what the shadow needs to predict it as of its arrival."""

    api: Api
    body: RequestBody
    features: Features
    ended: Ended


class Shadow:
    """Scores some ended requests, a few each half second, and compares with the champion on the same ones."""

    def __init__(self) -> None:
        self._ranker: LightGBMRanker | None = None
        self._extractor: FeatureExtractor | None = None
        self._waiting: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._order = LiveOrder()
        self._champion = LiveOrder()

    @property
    def artifact_id(self) -> str | None:
        """Whose shadow it is; None where there is none."""
        return None if self._ranker is None else self._ranker.artifact_id

    @property
    def requests(self) -> int:
        """How many requests the comparison rests on."""
        return self._order.requests

    @property
    def accuracies(self) -> tuple[Accuracy | None, Accuracy | None]:
        """The shadow's and the champion's, on the same requests."""
        return self._order.accuracy(), self._champion.accuracy()

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

    def offer(self, sample: Sample) -> None:
        """A request has ended; where many end, only the last few of each half second are scored."""
        if self._ranker is not None:
            self._waiting.append(sample)

    def score_one(self) -> None:
        """Score one of those that wait, if any. Costs what a request's prediction costs."""
        if not self._waiting or self._ranker is None:
            return
        sample = self._waiting.popleft()
        try:
            prediction = self._ranker.score(self._features(sample))
        except Exception:  # noqa: BLE001 - a broken shadow must end itself alone
            _LOG.exception("the shadow %s failed and is watched no longer", self.artifact_id)
            self.take(None)
            return
        self._order.add(sample.ended._replace(quantile=prediction.quantile, expected=prediction.tokens))
        self._champion.add(sample.ended)

    def _features(self, sample: Sample) -> Features:
        """The champion's vector where both read the same; else the shadow's own, with the history that the
        champion's had: what has been learned since must not help it."""
        assert self._extractor is not None
        known = sample.features
        if known.schema.id == self._extractor.schema.id:
            return known
        history = align(known.values, known.schema.names, _HISTORY)
        return self._extractor.extract(sample.body, read_view(sample.body), history, sample.api)
