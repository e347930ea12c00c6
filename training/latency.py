"""How long features and ranking take on this machine, measured on the rows' own requests."""

import time
from typing import Any, Final

import numpy as np

from predictor.artifact import Artifact
from predictor.lightgbm_ranker import LightGBMRanker
from predictor.request import Api, InferenceRequest, RequestBody

_ROWS: Final = 400
_WARM_UP: Final = 50


def measure(artifact: Artifact, bodies: list[RequestBody]) -> dict[str, Any]:
    """Microseconds per request, median and 99th percentile, of features and of ranking; None without bodies."""
    if not bodies:
        return {f"{name}_us_{which}": None for name in ("features", "rank") for which in ("p50", "p99")}
    ranker = LightGBMRanker(artifact)
    requests = [InferenceRequest(str(n), Api.CHAT, body, 0) for n, body in enumerate(bodies[:_ROWS])]
    for request in requests[:_WARM_UP]:
        ranker.predict(request)
    reading, ranking = [], []
    for request in requests:
        started = time.perf_counter_ns()
        features, _ = ranker.features(request)
        read = time.perf_counter_ns()
        ranker.score(features)
        reading.append(read - started)
        ranking.append(time.perf_counter_ns() - read)
    return {**_percentiles("features", reading), **_percentiles("rank", ranking)}


def _percentiles(name: str, nanoseconds: list[int]) -> dict[str, float]:
    median, high = np.percentile(nanoseconds, [50, 99]) / 1_000
    return {f"{name}_us_p50": round(float(median), 1), f"{name}_us_p99": round(float(high), 1)}
