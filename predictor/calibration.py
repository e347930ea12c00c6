"""From a ranker's score to its quantile, to expected tokens and to their spread: monotone maps, frozen."""

from bisect import bisect_right
from typing import Final

import msgspec

from predictor.prediction import Prediction

# No engine has a longer context.
MAX_TOKENS: Final = 1e8


class MonotoneMap(msgspec.Struct, frozen=True):
    """A non-decreasing piecewise linear map, flat beyond its ends; `x` strictly increases, `y` never falls."""

    x: list[float]
    y: list[float]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or not self.x:
            raise ValueError(
                f"a map needs as many y as x, and at least one: {len(self.x)} x, {len(self.y)} y"
            )
        finite = all(abs(value) < 1e300 for value in (*self.x, *self.y))
        rising = all(a < b for a, b in zip(self.x, self.x[1:], strict=False))
        if not finite or not rising or any(a > b for a, b in zip(self.y, self.y[1:], strict=False)):
            raise ValueError("a map needs finite, strictly increasing x and non-decreasing y")

    def __call__(self, score: float) -> float:
        """The value at `score`; a NaN score takes the last value."""
        x, y = self.x, self.y
        place = bisect_right(x, score)
        if place == 0:
            return y[0]
        if place == len(x):
            return y[-1]
        share = (score - x[place - 1]) / (x[place] - x[place - 1])
        return y[place - 1] + share * (y[place] - y[place - 1])


class Calibration(msgspec.Struct, frozen=True):
    """Maps from score to quantile in [0, 1] and to mean, 10th and 90th percentile of output tokens."""

    quantile: MonotoneMap
    tokens: MonotoneMap
    p10_tokens: MonotoneMap
    p90_tokens: MonotoneMap

    def __post_init__(self) -> None:
        for tokens in (self.tokens, self.p10_tokens, self.p90_tokens):
            if not 0 <= tokens.y[0] <= tokens.y[-1] <= MAX_TOKENS:
                raise ValueError(f"expected tokens lie between 0 and {MAX_TOKENS:g}")

    def quantile_by_tokens(self) -> MonotoneMap:
        """The quantile that goes with so many expected tokens, where these were corrected after the score."""
        x: list[float] = []
        y: list[float] = []
        for score in sorted({*self.quantile.x, *self.tokens.x}):
            tokens, quantile = self.tokens(score), self.quantile(score)
            if x and tokens <= x[-1]:
                # Of scores that expect equally many tokens (or by rounding a hair fewer) the last one counts.
                y[-1] = max(y[-1], quantile)
            else:
                x.append(tokens)
                y.append(max(quantile, y[-1]) if y else quantile)
        return MonotoneMap(x, y)

    def predict(self, score: float) -> Prediction:
        """The whole prediction of one score."""
        return Prediction(
            quantile=min(1.0, max(0.0, self.quantile(score))),
            tokens=self.tokens(score),
            p10_tokens=self.p10_tokens(score),
            p90_tokens=self.p90_tokens(score),
        )
