"""How fast the engines compute, measured online: what waiting times and Retry-After are made from."""

from math import exp
from typing import Final

_MEMORY_S: Final = 60.0


class Speed:
    """Tokens per second of an answer's stay at its engine, over about the last minute.

    Times those that are there now it is what the engines compute together (Little's law). Tokens over busy time
    would be far too low after a quiet minute, when one slot of many was in use: whoever comes with a deadline
    in the burst that follows would be given up for nothing.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._stay_s = 0.0
        self._at_us = 0

    def ended(self, tokens: float, stay_us: int, now_us: int) -> None:
        """A whole answer of so many prompt and output tokens took so long at its engine."""
        fade = exp(-max(0, now_us - self._at_us) / 1e6 / _MEMORY_S)
        self._tokens = self._tokens * fade + tokens
        self._stay_s = self._stay_s * fade + stay_us / 1e6
        self._at_us = now_us

    def tokens_per_s(self, running: int) -> float | None:
        """Prompt and output tokens of `running` requests together; None until enough has been seen."""
        return running * self._tokens / self._stay_s if self._stay_s >= 1.0 else None
