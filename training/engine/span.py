"""How long iterations last: runs of identical ones, timed in closed form."""

from bisect import bisect_left

from training.engine.batch import DecodeBatch
from training.engine.types import PS_PER_S, SequenceState
from training.profiles import EngineProfile


class IterationSpan:
    """`count` iterations from `start_ps`: the first lasts `first_ps`, each later one `growth_ps` more.

    Times are whole picoseconds. `prefills` are the sequences whose prompt is computed (`count` is 1 then).
    """

    __slots__ = ("count", "first_ps", "growth_ps", "prefills", "start_ps")

    def __init__(
        self, start_ps: int, first_ps: int, growth_ps: int, *, count: int, prefills: list[SequenceState]
    ) -> None:
        self.start_ps = start_ps
        self.first_ps = first_ps
        self.growth_ps = growth_ps
        self.count = count
        self.prefills = prefills

    @property
    def end_ps(self) -> int:
        """When the last iteration ends."""
        return self._end_of(self.count)

    def stop_after(self, now_ps: int) -> None:
        """Let the iteration under way at `now_ps` be the last one."""
        self.count = 1 + bisect_left(range(1, self.count), now_ps, key=self._end_of)

    def _end_of(self, iterations: int) -> int:
        growth = self.growth_ps * (iterations * (iterations - 1) // 2)
        return self.start_ps + iterations * self.first_ps + growth


class IterationCosts:
    """A profile's costs as whole picoseconds, so that a sum does not depend on how it is split."""

    def __init__(self, profile: EngineProfile) -> None:
        self._base = round(profile.base_s * PS_PER_S)
        self._prefill_token = round(profile.prefill_token_s * PS_PER_S)
        self._decode_sequence = round(profile.decode_sequence_s * PS_PER_S)
        self._kv_token = round(profile.kv_token_s * PS_PER_S)

    def span(
        self, start_ps: int, batch: DecodeBatch, prefills: list[SequenceState], prefill_tokens: int
    ) -> IterationSpan:
        """One iteration that decodes the batch and computes `prefill_tokens` of the given prompts."""
        context = batch.kv_tokens + sum(state.computed for state in prefills)
        first_ps = (
            self._base
            + self._prefill_token * prefill_tokens
            + self._decode_sequence * batch.size
            + self._kv_token * context
        )
        return IterationSpan(start_ps, first_ps, self._kv_token * batch.size, count=1, prefills=prefills)
