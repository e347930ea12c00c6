"""What a ranker says of a request before it runs, and the protocol every ranker keeps."""

from typing import Protocol

import msgspec

from predictor.request import InferenceRequest


class Prediction(msgspec.Struct, frozen=True):
    """How long the answer is thought to be.

    `quantile` in [0, 1] is the predicted length's place among the deployment's recent traffic: the only number
    that the default order uses. `tokens` is the expected number of output tokens, `p10_tokens` and `p90_tokens`
    its spread. `work` is the place of the predicted work, prompt included; None where nobody has measured it.
    """

    quantile: float
    tokens: float
    p10_tokens: float
    p90_tokens: float
    work: float | None = None


class Ranker(Protocol):
    """Anything that predicts; called inline on the event loop, so it takes microseconds and never blocks."""

    @property
    def artifact_id(self) -> str:
        """A short name for `x-headway-artifact`, the log and the metrics."""
        ...

    def predict(self, request: InferenceRequest) -> Prediction:
        """Predict one request. Must not raise for any body that `decode_body` accepted."""
        ...
