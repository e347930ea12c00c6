"""How fast the engines compute, measured online: what waiting times and Retry-After are made from."""

from math import exp
from typing import Final

_MEMORY_S: Final = 60.0


class Speed:
    """Tokens per second of busy time, over about the last minute of it."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._busy_s = 0.0
        self._since_us: int | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """Prompt and output tokens of all engines together; None until enough has been seen."""
        return self._tokens / self._busy_s if self._busy_s >= 1.0 else None

    def passed(self, now_us: int, *, busy: bool) -> None:
        """Time has passed until now, with requests running or not."""
        if self._since_us is not None and busy:
            elapsed_s = max(0.0, (now_us - self._since_us) / 1e6)
            fade = exp(-elapsed_s / _MEMORY_S)
            self._tokens *= fade
            self._busy_s = self._busy_s * fade + elapsed_s
        self._since_us = now_us

    def computed(self, tokens: float) -> None:
        """An answer ended; its tokens were computed in the busy time that `passed`."""
        self._tokens += tokens
