"""How many more requests one engine's KV cache will bear, from their predicted footprints. Pure, O(1) a call."""

from math import sqrt
from typing import Final

import msgspec

# Below this usage a gauge says too little; from the upper one on it hides how much more is wanted, and the
# engine is about to preempt: then the capacity is taken to be less than what is held.
_TELLING_USAGE: Final = 0.2
_FULL_USAGE: Final = 0.95
_LEARNING: Final = 1 / 16
_BACK_OFF: Final = 0.9


class _Footprint(msgspec.Struct, frozen=True):
    prompt_tokens: float
    output_tokens: float


class KvBudget:
    """Keeps the running requests of one replica within its KV cache, so that it need not preempt.

    At a random moment a running request holds its prompt and half of its answer, give or take a uniform
    spread; over many the spreads cancel. So `sum(prompt + output / 2) + caution x standard deviation` must
    fit the capacity: half the answers where many run, nearly all of them where few do. The capacity is
    calibrated by the gauge, which knows of shared prefixes, others' requests and biased predictions. One
    request may always run. The engine stays free to preempt: this makes it rare, not impossible.
    """

    def __init__(self, capacity_tokens: float | None = None, *, caution: float = 1.0) -> None:
        """`capacity_tokens`: the engine's blocks x block size; None: learned from the gauge.

        `caution` in standard deviations: on the engine model 1 saves most preemptions for a few per cent of
        the batch, 0 keeps the batch full, 2 all but excludes them.
        """
        self._capacity = capacity_tokens
        self._caution = caution
        self._running: dict[int, _Footprint] = {}
        self._held = 0.0
        self._squares = 0.0

    def __repr__(self) -> str:
        return f"<KvBudget {self._held:.0f} of {self._capacity} tokens, {len(self._running)} running>"

    @property
    def capacity_tokens(self) -> float | None:
        """Tokens that fit, as calibrated; None until known."""
        return self._capacity

    @property
    def held_tokens(self) -> float:
        """Tokens that the running requests are thought to hold at a random moment."""
        return self._held

    def fits(self, prompt_tokens: float, output_tokens: float) -> bool:
        """Whether one more request of this size fits; `output_tokens`: predicted, of all its answers."""
        if not self._running or self._capacity is None:
            return True
        spread = sqrt((self._squares + output_tokens * output_tokens) / 12)
        wanted = self._held + prompt_tokens + output_tokens / 2 + self._caution * spread
        return wanted <= self._capacity

    def admit(self, seq: int, prompt_tokens: float, output_tokens: float) -> None:
        """A request is sent to the engine; an admitted one is not counted twice."""
        if seq in self._running:
            return
        self._running[seq] = _Footprint(prompt_tokens, output_tokens)
        self._add(prompt_tokens, output_tokens, 1)

    def release(self, seq: int) -> None:
        """A request has left the engine."""
        footprint = self._running.pop(seq, None)
        if footprint is not None:
            self._add(footprint.prompt_tokens, footprint.output_tokens, -1)
        if not self._running:
            self._held = self._squares = 0.0

    def observe(self, kv_usage: float) -> None:
        """The gauge was polled: the share of KV blocks in use, in [0, 1]."""
        if not self._running:
            return
        if kv_usage < _TELLING_USAGE:
            # Too little to tell the size, but enough to undo one that was learned too small.
            if self._capacity is not None:
                self._capacity = max(self._capacity, self._held / _TELLING_USAGE)
            return
        if self._capacity is None:
            self._capacity = self._held / kv_usage
        elif kv_usage < _FULL_USAGE:
            self._capacity += (self._held / kv_usage - self._capacity) * _LEARNING
        else:
            self._capacity += (_BACK_OFF * min(self._held, self._capacity) - self._capacity) * _LEARNING

    def _add(self, prompt_tokens: float, output_tokens: float, sign: int) -> None:
        # Never below nothing, where rounding would take them.
        self._held = max(0.0, self._held + sign * (prompt_tokens + output_tokens / 2))
        self._squares = max(0.0, self._squares + sign * output_tokens * output_tokens)
