"""Running length statistics of finished requests, by who asks what of which model.

Prequential: a request sees only what had finished before it arrived. Nothing here reads a clock or does I/O;
`predictor.history_store` keeps the state in SQLite, and `drain_updates` hands what changed to whoever shares it.
"""

import math
from collections import OrderedDict
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
import numpy as np

from predictor.features.schema import FloatArray
from predictor.features.view import PromptView

# From the most to the least specific; each level has its own statistics.
LEVELS: Final = ("prompt", "system", "opening", "tenant", "model")
_STATISTICS: Final = ("count", "mean", "recent", "spread", "last")
HISTORY_NAMES: Final = tuple(f"history.{level}.{name}" for level in LEVELS for name in _STATISTICS)

_RECENT_WEIGHT: Final = 0.2
# The running mean forgets: beyond this many observations old ones fade, so that it follows a changed workload.
_MEMORY: Final = 200.0


class HistoryKey(msgspec.Struct, frozen=True):
    """One key per level, in the order of LEVELS; made by `history_key`."""

    levels: tuple[str, ...]


class LengthStats(msgspec.Struct):
    """Statistics of log(1 + output tokens): decayed count, mean and variance, an exponential mean, the last."""

    count: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    recent: float = 0.0
    last: float = 0.0
    finished_at_s: float = 0.0

    def add(self, tokens: float, finished_at_s: float) -> None:
        """Count one finished answer."""
        value = math.log1p(tokens)
        self.recent = value if self.count == 0 else self.recent + _RECENT_WEIGHT * (value - self.recent)
        self.count = min(self.count, _MEMORY - 1) + 1
        step = value - self.mean
        self.mean += step / self.count
        self.square += step * (value - self.mean) - (self.square / _MEMORY if self.count >= _MEMORY else 0.0)
        self.last = value
        self.finished_at_s = finished_at_s

    def values(self) -> tuple[float, float, float, float, float]:
        """In the order of the statistics' names; NaN where too few answers finished to tell."""
        spread = math.sqrt(max(0.0, self.square) / (self.count - 1)) if self.count >= 2 else math.nan
        return (math.log1p(self.count), self.mean, self.recent, spread, self.last)


_UNKNOWN: Final = (0.0, math.nan, math.nan, math.nan, math.nan)
NO_HISTORY: Final[FloatArray] = np.full(len(HISTORY_NAMES), np.nan, dtype=np.float32)


def history_key(tenant: str, model: str | None, view: PromptView) -> HistoryKey:
    """The keys of one request. Texts enter only as short hashes."""
    whose = _whose(tenant[:200], (model or "")[:200], view.system, view.system_chars)
    prompt = _digest(f"{view.focus}\0{view.context}", view.focus_chars + view.history_chars)
    opening = _digest(" ".join(view.focus[:200].split(None, 4)[:4]), 0)
    return HistoryKey(
        (
            f"p\x1f{whose.system}\x1f{prompt}",
            f"s\x1f{whose.system}",
            f"o\x1f{whose.system}\x1f{opening}",
            *whose.rest,
        )
    )


class _Whose(NamedTuple):
    """What many requests share: tenant, model and system prompt as one text, and the keys of the levels above."""

    system: str
    rest: tuple[str, str]


@lru_cache(maxsize=1_024)
def _whose(tenant: str, model: str, system: str, system_chars: int) -> _Whose:
    base = f"{tenant}\x1f{model}"
    return _Whose(f"{base}\x1f{_digest(system, system_chars)}", (f"t\x1f{base}", f"m\x1f{model}"))


class History:
    """Statistics for every key seen lately; the least recently used keys are dropped beyond `max_keys`."""

    def __init__(self, max_keys: int = 50_000) -> None:
        self._stats: OrderedDict[str, LengthStats] = OrderedDict()
        self._changed: set[str] = set()
        self._max_keys = max_keys

    def __len__(self) -> int:
        return len(self._stats)

    def features(self, key: HistoryKey) -> FloatArray:
        """One value per HISTORY_NAMES, of what has been observed so far."""
        values: list[float] = []
        for level in key.levels:
            stats = self._stats.get(level)
            values.extend(_UNKNOWN if stats is None else stats.values())
        return np.array(values, dtype=np.float32)

    def observe(self, key: HistoryKey, tokens: int, finished_at_s: float) -> None:
        """Count an answer that ended by itself. Censored ones (cut, cancelled, failed) must not come here."""
        for level in key.levels:
            stats = self._stats.get(level)
            if stats is None:
                stats = self._stats[level] = LengthStats()
            stats.add(max(0, tokens), finished_at_s)
            self._stats.move_to_end(level)
            self._changed.add(level)
        while len(self._stats) > self._max_keys:
            self._changed.discard(self._stats.popitem(last=False)[0])

    def newest_s(self) -> float:
        """When the latest answer ended that it knows of; 0 where it knows of none."""
        return max((stats.finished_at_s for stats in self._stats.values()), default=0.0)

    def drain_updates(self) -> list[tuple[str, LengthStats]]:
        """Statistics that changed since the last call, for the store or for other proxies."""
        changed = [(key, self._stats[key]) for key in self._changed if key in self._stats]
        self._changed.clear()
        return changed

    def restore(self, rows: list[tuple[str, LengthStats]]) -> None:
        """Take over saved or shared statistics; where both sides know a key, the later one is kept."""
        for key, stats in rows:
            known = self._stats.get(key)
            if known is None or known.finished_at_s < stats.finished_at_s:
                self._stats[key] = stats
        while len(self._stats) > self._max_keys:
            self._stats.popitem(last=False)


def _digest(text: str, size: int) -> str:
    return blake2b(f"{size}\x1f{text}".encode("utf-8", "replace"), digest_size=8).hexdigest()
