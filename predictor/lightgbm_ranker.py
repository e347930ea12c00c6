"""The ranker of the request path: features, LightGBM, calibration, inline on the event loop."""

from pathlib import Path

from predictor.artifact import Artifact, load_artifact
from predictor.features.extractor import FeatureExtractor, read_view
from predictor.features.schema import Features, Schema
from predictor.history import History, HistoryKey, history_key
from predictor.prediction import Prediction
from predictor.request import InferenceRequest
from predictor.self_query import SELF_NAMES

DEFAULT_ARTIFACT = Path(__file__).parent / "artifacts" / "default"


class LightGBMRanker:
    """Keeps `predictor.prediction.Ranker`. The history outlives the artifact: hand it to the next ranker."""

    def __init__(self, artifact: Artifact, history: History | None = None) -> None:
        self.artifact = artifact
        self.history = History() if history is None else history
        self._extractor = FeatureExtractor(artifact.head)
        self.places = artifact.calibration.quantile_by_tokens()
        names = self._extractor.schema.names
        self.uses_signals = any(names[column] in SELF_NAMES for column in artifact.ensemble.columns())

    @classmethod
    def load(cls, directory: Path = DEFAULT_ARTIFACT, history: History | None = None) -> "LightGBMRanker":
        """Load an artifact (35 ms and more: off the event loop). Raises ArtifactError."""
        return cls(load_artifact(directory), history)

    @property
    def artifact_id(self) -> str:
        """Names the artifact's content: the directory's name under the state directory."""
        return self.artifact.id

    @property
    def schema(self) -> Schema:
        """The names of the features that it scores."""
        return self._extractor.schema

    def predict(self, request: InferenceRequest) -> Prediction:
        """Predict one request from its body and the history so far."""
        return self.score(self.features(request)[0])

    def features(self, request: InferenceRequest) -> tuple[Features, HistoryKey]:
        """The request's numbers, for `score` and for the traffic log, and its key, for `observe`."""
        view = read_view(request.body)
        key = history_key(request.tenant, request.body.model, view)
        return self._extractor.extract(request.body, view, self.history.features(key), request.api), key

    def score(self, features: Features) -> Prediction:
        """Predict from features; call again with `features.with_values(…)` once a self-prediction is known."""
        return self.artifact.predict(features.values)

    def observe(self, key: HistoryKey, output_tokens: int, finished_at_s: float) -> None:
        """Count an answer that ended by itself (not cut by a limit, cancelled or failed)."""
        self.history.observe(key, output_tokens, finished_at_s)
