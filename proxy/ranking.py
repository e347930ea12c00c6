"""The ranker in service: it can be swapped between requests, and if it fails the order is FCFS."""

import logging
from pathlib import Path
from typing import Final, Protocol

import msgspec

from predictor.errors import PredictorError
from predictor.features.schema import Features
from predictor.history import History, HistoryKey
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.prediction import Prediction, Ranker
from predictor.request import InferenceRequest

_LOG: Final = logging.getLogger("headway.ranking")
_MOST_TOKENS: Final = 1e8
_FAILURES_PER_LINE: Final = 1000
# The same place for everybody is first come, first served.
NEUTRAL: Final = Prediction(0.5, 256.0, 16.0, 1024.0)


class Estimate(msgspec.Struct, frozen=True):
    """A prediction, with what it was made from where the ranker can tell."""

    prediction: Prediction
    features: Features | None = None
    history_key: HistoryKey | None = None


class Estimator(Protocol):
    """What serving asks of prediction."""

    @property
    def artifact_id(self) -> str:
        """The name for `x-headway-artifact`, the log and the metrics."""
        ...

    def estimate(self, request: InferenceRequest) -> Estimate:
        """Predict one request. Never raises, never blocks."""
        ...

    def learn(self, estimate: Estimate, output_tokens: int, finished_at_s: float) -> None:
        """An answer ended by itself."""
        ...


class Fixed(msgspec.Struct, frozen=True):
    """Any ranker without features or history: neutral, oracle, shuffled."""

    ranker: Ranker

    @property
    def artifact_id(self) -> str:
        return self.ranker.artifact_id

    def estimate(self, request: InferenceRequest) -> Estimate:
        return Estimate(self.ranker.predict(request))

    def learn(self, estimate: Estimate, output_tokens: int, finished_at_s: float) -> None:
        """Nothing to learn from."""


class Ranking:
    """The learned ranker, with its fall-back."""

    def __init__(self, history: History | None = None) -> None:
        self.history = history or History()
        self._ranker: LightGBMRanker | None = None
        self.failures = 0

    @property
    def artifact_id(self) -> str:
        return "none" if self._ranker is None else self._ranker.artifact_id

    def load(self, directory: Path = DEFAULT_ARTIFACT) -> bool:
        """Take an artifact into service (35 ms and more: off the loop); on failure the last good one stays."""
        try:
            self._ranker = LightGBMRanker.load(directory, self.history)
        except PredictorError as error:
            _LOG.error("artifact %s is not usable, staying with %s: %s", directory, self.artifact_id, error)
            return False
        return True

    def estimate(self, request: InferenceRequest) -> Estimate:
        if self._ranker is None:
            return Estimate(NEUTRAL)
        try:
            features, key = self._ranker.features(request)
            return Estimate(_checked(self._ranker.score(features)), features, key)
        except Exception:  # noqa: BLE001 - promise 3: a broken ranker must cost nobody an answer
            self._failed("this request keeps its arrival order")
            return Estimate(NEUTRAL)

    def learn(self, estimate: Estimate, output_tokens: int, finished_at_s: float) -> None:
        if self._ranker is None or estimate.history_key is None:
            return
        try:
            self._ranker.observe(estimate.history_key, output_tokens, finished_at_s)
        except Exception:  # noqa: BLE001 - promise 3, as above
            self._failed("nothing was learned from this answer")

    def _failed(self, consequence: str) -> None:
        """Count it, and say so without filling the log."""
        if self.failures % _FAILURES_PER_LINE == 0:
            _LOG.exception("the ranker %s failed; %s", self.artifact_id, consequence)
        self.failures += 1


def _checked(prediction: Prediction) -> Prediction:
    """The same prediction; raises ValueError where it cannot be one."""
    tokens = (prediction.tokens, prediction.p10_tokens, prediction.p90_tokens)
    if not 0 <= prediction.quantile <= 1 or not all(0 <= count <= _MOST_TOKENS for count in tokens):
        raise ValueError(f"no prediction: {prediction}")
    return prediction
