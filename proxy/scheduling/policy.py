"""Policies: one static number per request, lower first. Nothing else decides the order inside a queue."""

from math import expm1, log
from typing import Final, Protocol

import msgspec

from predictor.prediction import Prediction

MICROSECONDS: Final = 1_000_000
# An upper end for lengths under sjf, where the key is tokens and not time.
MAX_SJF_TOKENS: Final = 1 << 40


class Policy(Protocol):
    """Turns a prediction into a key. A request's key may change only by a new prediction, never by time."""

    @property
    def name(self) -> str:
        """The name in the configuration, the log and `x-headway-policy`."""
        ...

    @property
    def overtake_bound_us(self) -> int | None:
        """Nobody is passed by a request that arrived more than this later; None: unbounded."""
        ...

    def key_us(self, arrival_us: int, prediction: Prediction) -> int:
        """The place in the queue. Bounded policies give `arrival_us + x` with 0 <= x <= the bound."""
        ...


class Fcfs(msgspec.Struct, frozen=True):
    """First come, first served.

    `delay_us` counts everybody as having come so much later: among themselves that changes nothing, but
    requests that an engine already holds with keys up to `delay_us` after their arrival are not passed.
    """

    delay_us: int = 0

    @property
    def name(self) -> str:
        return "fcfs"

    @property
    def overtake_bound_us(self) -> int | None:
        return 0

    def key_us(self, arrival_us: int, prediction: Prediction) -> int:
        return arrival_us + self.delay_us


class Quantile(msgspec.Struct, frozen=True):
    """Arrival plus D times the predicted length's quantile: ageing that needs no timer.

    Everybody ages at the same rate, so two keys never change order; D -> 0 is FCFS, D -> infinity SJF. A
    later request passes an earlier one only if it arrives less than D x (difference of quantiles) after it.
    """

    max_overtake_us: int

    @property
    def name(self) -> str:
        return "quantile"

    @property
    def overtake_bound_us(self) -> int | None:
        return self.max_overtake_us

    def key_us(self, arrival_us: int, prediction: Prediction) -> int:
        quantile = min(1.0, max(0.0, prediction.quantile))
        return arrival_us + round(self.max_overtake_us * quantile)


class Work(msgspec.Struct, frozen=True):
    """Arrival plus D times the place of the predicted work, the prompt's prefill included.

    Where prompts are long and answers short, the engine's time goes into prefill, and the length of answers
    says nothing of who holds up whom. By length where the work is not known.
    """

    max_overtake_us: int

    @property
    def name(self) -> str:
        return "work"

    @property
    def overtake_bound_us(self) -> int | None:
        return self.max_overtake_us

    def key_us(self, arrival_us: int, prediction: Prediction) -> int:
        place = prediction.quantile if prediction.work is None else prediction.work
        return arrival_us + round(self.max_overtake_us * min(1.0, max(0.0, place)))


class Sjf(msgspec.Struct, frozen=True):
    """Shortest predicted job first. Unbounded: an endless stream of short requests starves a long one."""

    @property
    def name(self) -> str:
        return "sjf"

    @property
    def overtake_bound_us(self) -> int | None:
        return None

    def key_us(self, arrival_us: int, prediction: Prediction) -> int:
        return min(MAX_SJF_TOKENS, max(0, round(prediction.tokens * 1000)))


class Boost(msgspec.Struct, frozen=True):
    """gamma-Boost (Yu & Scully, arXiv 2404.08826): arrival less a boost that grows without bound as sizes fall.

    `token_s` turns predicted tokens into seconds of a slot, `longest_s` is the size that gets no boost. The
    boost ends at D, so all sizes below some length tie there, and with a small gamma nearly all do: then this
    is FCFS. Choose gamma so that only the very shortest reach D. The key is D later than the paper's, which
    changes no order. For the replay to compare: serving would have to keep `token_s` fixed while keys wait.
    """

    max_overtake_us: int
    gamma_per_s: float
    token_s: float
    longest_s: float

    def __post_init__(self) -> None:
        if min(self.gamma_per_s, self.token_s, self.longest_s) <= 0:
            raise ValueError("boost: gamma_per_s, token_s and longest_s must be above 0")

    @property
    def name(self) -> str:
        return "boost"

    @property
    def overtake_bound_us(self) -> int | None:
        return self.max_overtake_us

    def key_us(self, arrival_us: int, prediction: Prediction) -> int:
        size_s = max(prediction.tokens, 1e-3) * self.token_s
        boost_s = boost_at(size_s, self.gamma_per_s) - boost_at(self.longest_s, self.gamma_per_s)
        boost_us = min(self.max_overtake_us, max(0, round(boost_s * MICROSECONDS)))
        return arrival_us + self.max_overtake_us - boost_us


def boost_at(size_s: float, gamma_per_s: float) -> float:
    """The paper's boost of a job of that size, in seconds: -ln(1 - exp(-gamma s)) / gamma."""
    shrunk = -expm1(-gamma_per_s * size_s)
    return -log(shrunk) / gamma_per_s


POLICY_NAMES: Final = ("fcfs", "quantile", "work", "sjf")


def make_policy(name: str, max_overtake_s: float) -> Policy:
    """The policy called `name`; raises ValueError with the known names for any other."""
    if name == "fcfs":
        return Fcfs()
    if name == "quantile":
        return Quantile(round(max_overtake_s * MICROSECONDS))
    if name == "work":
        return Work(round(max_overtake_s * MICROSECONDS))
    if name == "sjf":
        return Sjf()
    raise ValueError(f"unknown policy '{name}': choose one of {', '.join(POLICY_NAMES)}")
