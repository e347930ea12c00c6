"""Whether one engine may be asked now: its budget, its circuit, and whether the asking is worth it. Pure."""

from enum import StrEnum
from typing import Final

import msgspec

from proxy.asking.pace import Pace

# Budget that may be saved up, so that a burst after quiet can be asked about.
_SAVED_S: Final = 10.0
_FAILURES: Final = 5
_OPEN_US: Final = 30_000_000
# What is cached is judged over so many requests, shut below this share, and looked at again after a while.
_JUDGED: Final = 8
_ENOUGH: Final = 0.8
_SHUT_US: Final = 600_000_000
_GAIN: Final = 1 / 8


class Skip(StrEnum):
    """Why nobody was asked."""

    BUDGET = "budget"
    CIRCUIT = "circuit"
    NOT_CACHED = "not_cached"
    BUSY = "busy"


class AskLimits(msgspec.Struct, frozen=True):
    """`share`: of the engine's slot time that queries may take; `at_once`: of its slots, but at least one query.

    `deadline_s`: how long an answer is waited for; None: as the engine's pace has it.
    """

    share: float = 0.03
    at_once: float = 0.03
    deadline_s: float | None = None


class AskGate:
    """Opens and shuts the asking of one engine.

    Budget: each query is charged the time for which it held a slot; `share` of the slots' time is earned.
    Circuit: after five failures in a row (an error, or no answer in time) nobody is asked for 30 s, then
    one. Cache: of what a query computed of the prompt, the request that follows must find 80%, or asking
    costs a second prefill; then it stops for ten minutes.
    """

    def __init__(self, limits: AskLimits, now_us: int) -> None:
        self._limits = limits
        self._earned_us = now_us
        # Enough for a first query; whoever never waits never pays.
        self._budget_s = 1.0
        self._failures = 0
        self._open_until_us = now_us
        self._shut_until_us = now_us
        self._cached: float | None = None
        self._judged = 0
        self.asking = 0
        self.pace = Pace(limits.deadline_s)

    @property
    def cached_share(self) -> float | None:
        """Of the tokens that queries computed for the requests after them, the share found; None: not known."""
        return self._cached

    def refuses(self, slots: int, now_us: int, part: float = 1.0) -> Skip | None:
        """Why no query may be sent now to an engine that runs `slots` requests at once; None: it may.

        `part`: how much of the share may be earned at present.
        """
        self._earn(slots * part, now_us)
        if now_us < self._shut_until_us:
            return Skip.NOT_CACHED
        if now_us < self._open_until_us or (self._failures >= _FAILURES and self.asking):
            return Skip.CIRCUIT
        if self.asking >= max(1, int(slots * self._limits.at_once)):
            return Skip.BUSY
        return Skip.BUDGET if self._budget_s <= 0 else None

    def asked(self) -> None:
        """A query was sent."""
        self.asking += 1

    def ended(self, took_s: float, now_us: int, *, answered: bool) -> None:
        """A query has ended after holding a slot for `took_s`, with an answer or without."""
        self.asking -= 1
        self._budget_s -= took_s
        if answered:
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= _FAILURES:
            self._open_until_us = now_us + _OPEN_US

    def reused(self, cached_tokens: int, possible_tokens: int, now_us: int) -> None:
        """A request came after its query: of the whole blocks that the two share, so much was cached."""
        if possible_tokens <= 0:
            return
        share = min(1.0, cached_tokens / possible_tokens)
        self._cached = share if self._cached is None else self._cached + (share - self._cached) * _GAIN
        self._judged += 1
        if self._judged >= _JUDGED and self._cached < _ENOUGH:
            self._shut_until_us = now_us + _SHUT_US
            self._cached, self._judged = None, 0

    def _earn(self, slots: float, now_us: int) -> None:
        earned_s = (now_us - self._earned_us) / 1e6 * slots * self._limits.share
        self._earned_us = now_us
        self._budget_s = min(_SAVED_S * slots * self._limits.share, self._budget_s + earned_s)
