"""Policies: one static number per request, lower first. Nothing else decides the order inside a queue."""

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
    """First come, first served."""

    @property
    def name(self) -> str:
        return "fcfs"

    @property
    def overtake_bound_us(self) -> int | None:
        return 0

    def key_us(self, arrival_us: int, prediction: Prediction) -> int:
        return arrival_us


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


POLICY_NAMES: Final = ("fcfs", "quantile", "sjf")


def make_policy(name: str, max_overtake_s: float) -> Policy:
    """The policy called `name`; raises ValueError with the known names for any other."""
    if name == "fcfs":
        return Fcfs()
    if name == "quantile":
        return Quantile(round(max_overtake_s * MICROSECONDS))
    if name == "sjf":
        return Sjf()
    raise ValueError(f"unknown policy '{name}': choose one of {', '.join(POLICY_NAMES)}")
