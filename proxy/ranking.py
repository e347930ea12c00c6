"""The ranker in service: it can be swapped between requests, and if it fails the order is FCFS."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from predictor.calibration import MonotoneMap
from predictor.errors import PredictorError
from predictor.features.schema import Features
from predictor.history import History, HistoryKey
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.prediction import Prediction, Ranker
from predictor.recalibration import Bias, Recalibration
from predictor.request import InferenceRequest

_LOG: Final = logging.getLogger("headway.ranking")
_MOST_TOKENS: Final = 1e8
_FAILURES_PER_LINE: Final = 1000
# A group that differs from everybody by less than this (logarithm) keeps its place in the order.
_SAME_PLACE: Final = 0.1
# The same place for everybody is first come, first served.
NEUTRAL: Final = Prediction(0.5, 256.0, 16.0, 1024.0)


class Estimate(msgspec.Struct, frozen=True):
    """A prediction, with what it was made from where the ranker can tell.

    `artifact` made it; `scored` is what that one says, before recalibration.
    """

    prediction: Prediction
    features: Features | None = None
    history_key: HistoryKey | None = None
    artifact: str | None = None
    scored: Prediction | None = None


class Estimator(Protocol):
    """What serving asks of prediction."""

    @property
    def artifact_id(self) -> str:
        """The name for `x-headway-artifact`, the log and the metrics."""
        ...

    @property
    def uses_signals(self) -> bool:
        """Whether what a model says of its own answer (`self.*` features) changes a prediction."""
        ...

    def estimate(self, request: InferenceRequest) -> Estimate:
        """Predict one request. Never raises, never blocks."""
        ...

    def refine(self, estimate: Estimate, signals: Mapping[str, float], now_s: float) -> Estimate:
        """The estimate with what the model said of its answer (`self.*` features). Never raises."""
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

    @property
    def uses_signals(self) -> bool:
        return False

    def estimate(self, request: InferenceRequest) -> Estimate:
        return Estimate(self.ranker.predict(request))

    def refine(self, estimate: Estimate, signals: Mapping[str, float], now_s: float) -> Estimate:  # noqa: ARG002
        """It knows no features."""
        return estimate

    def learn(self, estimate: Estimate, output_tokens: int, finished_at_s: float) -> None:
        """Nothing to learn from."""


class Ranking:
    """The learned ranker, with its fall-back, and what recent answers say of its scale.

    `resting`: nobody needs predictions now, so none are made.
    """

    def __init__(self, history: History | None = None) -> None:
        self.history = history or History()
        self.recalibration = Recalibration()
        self._ranker: LightGBMRanker | None = None
        self.resting = False
        self.failures = 0

    @property
    def artifact_id(self) -> str:
        return "none" if self._ranker is None or self.resting else self._ranker.artifact_id

    def load(self, directory: Path = DEFAULT_ARTIFACT) -> bool:
        """Take an artifact into service (35 ms and more: off the loop); on failure the last good one stays."""
        try:
            self.take(LightGBMRanker.load(directory, self.history))
        except PredictorError as error:
            _LOG.error("artifact %s is not usable, staying with %s: %s", directory, self.artifact_id, error)
            return False
        return True

    def take(self, ranker: LightGBMRanker) -> None:
        """Put a loaded ranker in the place of the one in service, between two requests."""
        self._ranker = ranker
        self.recalibration.clear()

    @property
    def uses_signals(self) -> bool:
        return self._ranker is not None and self._ranker.uses_signals and not self.resting

    def estimate(self, request: InferenceRequest) -> Estimate:
        if self._ranker is None or self.resting:
            return Estimate(NEUTRAL)
        try:
            features, key = self._ranker.features(request)
            return self._scored(self._ranker, features, key, request.arrival_us / 1e6)
        except Exception:  # noqa: BLE001 - promise 3: a broken ranker must cost nobody an answer
            self._failed("this request keeps its arrival order")
            return Estimate(NEUTRAL)

    def refine(self, estimate: Estimate, signals: Mapping[str, float], now_s: float) -> Estimate:
        ranker, features, key = self._ranker, estimate.features, estimate.history_key
        if ranker is None or features is None or key is None or features.schema != ranker.schema:
            # Another artifact has come into service since.
            return estimate
        try:
            return self._scored(ranker, features.with_values(signals), key, now_s)
        except Exception:  # noqa: BLE001 - promise 3, as above
            self._failed("what its model said of this request is not used")
            return estimate

    def _scored(self, ranker: LightGBMRanker, features: Features, key: HistoryKey, now_s: float) -> Estimate:
        scored = ranker.score(features)
        bias = self.recalibration.bias(key, now_s)
        prediction = _checked(_corrected(scored, bias, ranker.places))
        if scored.work is not None:
            apart = scored.tokens * math.exp(bias.group - bias.everybody)
            work = ranker.artifact.work_place(features.values, apart)
            prediction = msgspec.structs.replace(prediction, work=work)
        return Estimate(prediction, features, key, ranker.artifact_id, scored)

    def learn(self, estimate: Estimate, output_tokens: int, finished_at_s: float) -> None:
        if self._ranker is None or estimate.history_key is None:
            return
        try:
            self._ranker.observe(estimate.history_key, output_tokens, finished_at_s)
            if estimate.scored is not None and estimate.artifact == self.artifact_id:
                expected = estimate.scored.tokens
                self.recalibration.observe(estimate.history_key, expected, output_tokens, finished_at_s)
        except Exception:  # noqa: BLE001 - promise 3, as above
            self._failed("nothing was learned from this answer")

    def _failed(self, consequence: str) -> None:
        """Count it, and say so without filling the log."""
        if self.failures % _FAILURES_PER_LINE == 0:
            _LOG.exception("the ranker %s failed; %s", self.artifact_id, consequence)
        self.failures += 1


def _corrected(scored: Prediction, bias: Bias, places: MonotoneMap) -> Prediction:
    """Tokens by the group's whole bias. The place in the order only by what sets the group apart from everybody:
    a common factor changes no order, and so the quantiles stay spread over [0, 1]."""
    if bias.group == 0 and bias.everybody == 0:
        return scored
    factor, apart, quantile = math.exp(bias.group), bias.group - bias.everybody, scored.quantile
    if abs(apart) >= _SAME_PLACE:
        moved = places(scored.tokens * math.exp(apart)) - places(scored.tokens)
        quantile = min(1.0, max(0.0, quantile + moved))
    return Prediction(
        quantile, scored.tokens * factor, scored.p10_tokens * factor, scored.p90_tokens * factor
    )


def _checked(prediction: Prediction) -> Prediction:
    """The same prediction; raises ValueError where it cannot be one."""
    tokens = (prediction.tokens, prediction.p10_tokens, prediction.p90_tokens)
    if not 0 <= prediction.quantile <= 1 or not all(0 <= count <= _MOST_TOKENS for count in tokens):
        raise ValueError(f"no prediction: {prediction}")
    return prediction
