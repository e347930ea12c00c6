"""What a ranker says of a workload: logged, by an artifact, or of a made-up one with a given Kendall tau."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.prediction import Prediction
from predictor.request import Api, InferenceRequest
from training.ranking_metrics import kendall_tau_b
from training.replay.workload import Item, Workload
from training.sources import DataError

DoubleArray = npt.NDArray[np.float64]

_CALIBRATION_ROWS: Final = 20_000
_NEUTRAL_QUANTILE: Final = 0.5


class Distortion(StrEnum):
    """What becomes of the predictions, to see what a bad ranker costs."""

    NONE = "none"
    REVERSED = "reversed"
    SHUFFLED = "shuffled"


class Ranked(msgspec.Struct, frozen=True):
    """Predictions (n,) of a workload; `by` says who made them, `tau_b` how well they order the true lengths.

    `work` are the places of predicted work, where they are known.
    """

    quantile: DoubleArray
    tokens: DoubleArray
    by: str
    tau_b: float
    work: DoubleArray | None = None

    def predictions(self) -> list[Prediction]:
        """One per request, without a spread, which no order reads."""
        work = [None] * len(self.tokens) if self.work is None else self.work.tolist()
        rows = zip(self.quantile.tolist(), self.tokens.tolist(), work, strict=True)
        return [Prediction(quantile, tokens, tokens, tokens, place) for quantile, tokens, place in rows]


def oracle(lengths: DoubleArray) -> Ranked:
    """True lengths; the quantile of equal ones is the middle of their places."""
    return Ranked(places(lengths), lengths, "true lengths", 1.0)


def ranked(workload: Workload, artifact: Path | None, tau: float, rng: np.random.Generator) -> Ranked:
    """The best that the source allows: the given artifact, the log, the default artifact, or a made-up ranker.

    Raises DataError where the artifact has nothing to go by, PredictorError where it cannot be loaded.
    """
    items = workload.items
    lengths = workload.output_tokens.astype(np.float64)
    logged = sum(item.quantile is not None for item in items) > len(items) / 2
    readable = all(item.body is not None or item.features is not None for item in items)
    if artifact is not None and not readable:
        raise DataError(
            f"{workload.source}: rows without text or features cannot be ranked; leave out --artifact"
        )
    if artifact is not None or (readable and not logged):
        return _by_artifact(items, lengths, artifact or DEFAULT_ARTIFACT)
    return _by_log(items, lengths) if logged else synthetic(lengths, tau, rng)


def distorted(real: Ranked, lengths: DoubleArray, how: Distortion, rng: np.random.Generator) -> Ranked:
    """The same predictions given to the wrong requests."""
    if how is Distortion.NONE:
        return real
    if how is Distortion.SHUFFLED:
        deal = rng.permutation(len(lengths))
        return _judged(real.quantile[deal], real.tokens[deal], lengths, f"{real.by}, shuffled")
    place = rankdata(real.quantile, method="ordinal") - 1
    tokens = np.sort(real.tokens)[::-1][place]
    return _judged(1 - real.quantile, tokens, lengths, f"{real.by}, reversed")


def synthetic(lengths: DoubleArray, tau: float, rng: np.random.Generator) -> Ranked:
    """A ranker of that Kendall tau-b: normal noise on log length, as strong as it takes."""
    log_length = np.log(lengths)
    noise = rng.standard_normal(len(lengths))
    score = log_length + _noise_for(log_length, noise, tau) * noise
    quantile = places(score)
    return _judged(quantile, np.quantile(lengths, quantile), lengths, f"synthetic, tau {tau:g}")


def _noise_for(log_length: DoubleArray, noise: DoubleArray, tau: float) -> float:
    """Bisection on the strength of the noise; none at all where ties keep tau-b below what is wanted."""
    rows = slice(None, None, -(-len(log_length) // _CALIBRATION_ROWS))
    sample, its_noise = log_length[rows], noise[rows]
    low, high = 0.0, 64.0
    for _ in range(30):
        middle = (low + high) / 2
        if kendall_tau_b(sample, sample + middle * its_noise) > tau:
            low = middle
        else:
            high = middle
    return low


def _by_log(items: Sequence[Item], lengths: DoubleArray) -> Ranked:
    quantile = [_NEUTRAL_QUANTILE if item.quantile is None else item.quantile for item in items]
    median = float(np.median(lengths))
    tokens = [median if item.tokens is None else item.tokens for item in items]
    return _judged(np.array(quantile), np.array(tokens), lengths, "as logged")


def _by_artifact(items: Sequence[Item], lengths: DoubleArray, directory: Path) -> Ranked:
    ranker = LightGBMRanker.load(directory)
    made: dict[int, Prediction] = {}
    # A workload repeats its rows: each is ranked once.
    for item in items:
        if id(item) not in made:
            made[id(item)] = _rank(ranker, item)
    found = [made[id(item)] for item in items]
    quantile = np.array([one.quantile for one in found])
    tokens = np.array([one.tokens for one in found])
    return _judged(quantile, tokens, lengths, f"artifact {ranker.artifact_id}")


def _rank(ranker: LightGBMRanker, item: Item) -> Prediction:
    if item.body is not None:
        return ranker.predict(InferenceRequest(request_id="", api=Api.CHAT, body=item.body, arrival_us=0))
    artifact = ranker.artifact
    values = np.frombuffer(item.features or b"", dtype="<f4")
    known = dict(zip(item.names if len(values) else (), values, strict=True))
    row = np.array([known.get(name, np.nan) for name in artifact.schema.names], dtype=np.float32)
    return artifact.calibration.predict(artifact.ensemble.score(row))


def _judged(quantile: DoubleArray, tokens: DoubleArray, lengths: DoubleArray, by: str) -> Ranked:
    return Ranked(quantile, tokens, by, kendall_tau_b(lengths, quantile))


def places(values: DoubleArray) -> DoubleArray:
    """Place of each value among all, in (0, 1)."""
    return np.asarray((rankdata(values) - 0.5) / len(values), dtype=np.float64)
