"""A continuous-batching engine in virtual time, after vLLM v1: no clock, no asyncio, no randomness.

One model serves the replay, which jumps over runs of identical iterations, and the emulated HTTP engine,
which takes one iteration at a time. Time is counted in whole picoseconds, so that a jump over a hundred
iterations ends at exactly the instant that a hundred single ones do.
"""

import math

from training.engine.batch import DecodeBatch
from training.engine.cache import KvCache
from training.engine.span import IterationCosts, IterationSpan
from training.engine.types import (
    PS_PER_S,
    EngineCounters,
    Event,
    EventKind,
    EventLog,
    Iteration,
    QueueFullError,
    Sequence,
    SequenceState,
    Status,
)
from training.engine.waiting import SchedulingPolicy, WaitingQueue
from training.profiles import EngineProfile


class EngineModel:
    """Slots, KV blocks, prefix cache, chunked prefill and queue, after vLLM's `v1/core/sched/scheduler.py`.

    An iteration serves the running sequences first and admits waiters into what is left of its token budget,
    best first; a waiter that does not fit holds up those behind it. A running sequence makes way only when
    another one lacks a KV block: the worst by (priority, arrival), or under `fcfs` the latest admitted; it
    computes anew what the cache has lost. An iteration that starts at an instant sees what was submitted at
    that instant or before; its tokens come out at its end.

    Times are seconds on whatever axis the caller uses, never running backwards. `max_jump` bounds how many
    iterations are taken at once (1: the emulated engine); it changes no result.
    """

    def __init__(
        self,
        profile: EngineProfile,
        policy: SchedulingPolicy = SchedulingPolicy.FCFS,
        *,
        max_num_queued_reqs: int | None = None,
        max_jump: int | None = None,
    ) -> None:
        self.profile = profile
        self.policy = policy
        self.counters = EngineCounters()
        self._max_num_queued_reqs = max_num_queued_reqs
        self._max_jump = max_jump
        self._clock_ps = 0
        self._states: dict[int, SequenceState] = {}
        self._running: dict[int, SequenceState] = {}
        self._waiting = WaitingQueue(policy)
        self._batch = DecodeBatch(profile.block_size)
        self._costs = IterationCosts(profile)
        self._cache = KvCache(profile.num_blocks, profile.block_size)
        self._prefilling: SequenceState | None = None
        self._aborting: list[SequenceState] = []
        self._span: IterationSpan | None = None
        self._log = EventLog()

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences in the engine's own queue, preempted ones included."""
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV blocks that are held, in [0, 1]."""
        return self._cache.usage

    def submit(self, seq: Sequence, now_s: float) -> None:
        """Queue a sequence.

        QueueFullError at the admission limit; ValueError for an id in use or a sequence that can never fit.
        """
        self._check(seq)
        now_ps = self._run_until(_picoseconds(now_s))
        if self._max_num_queued_reqs is not None and len(self._states) >= self._max_num_queued_reqs:
            self.counters.refused += 1
            raise QueueFullError(f"{len(self._states)} requests are queued: the limit is reached")
        if not self._states:
            self._clock_ps = now_ps
        self._states[seq.id] = SequenceState(seq, now_ps)
        self._waiting.push(seq.id, seq.priority, now_ps)
        if len(self._running) < self.profile.max_num_seqs:
            self._stop_jump(now_ps)

    def abort(self, sequence_id: int, now_s: float) -> bool:
        """Drop a sequence, which emits nothing any more; its slot is free after the iteration under way.

        False if the engine does not have it (any more).
        """
        now_ps = self._run_until(_picoseconds(now_s))
        state = self._states.get(sequence_id)
        if state is None or state.aborting:
            return False
        state.aborting = True
        self._stop_jump(now_ps)
        if state.status is Status.WAITING:
            self._waiting.remove(sequence_id)
            self._end(state, EventKind.ABORTED, now_ps)
        elif self._span is not None:
            self._aborting.append(state)
        else:
            self._leave(state, EventKind.ABORTED)
        return True

    def next_event_s(self) -> float | None:
        """When something next happens if nothing is submitted or aborted; None when there is no work.

        Starts the next iteration where none is under way: what is submitted later waits for the one after.
        """
        if not self._states:
            return None
        return _seconds_not_before(self._planned().end_ps)

    def advance(self, until_s: float) -> list[Event]:
        """Run all iterations that end at `until_s` or before; what happened since the last call, in order."""
        self._run_until(_picoseconds(until_s))
        return self._log.take()

    def step(self) -> Iteration:
        """Run exactly one iteration, whenever it ends; there must be work (see `next_event_s`)."""
        span = self._planned()
        span.count = 1
        emitted = [seq_id for seq_id, state in self._running.items() if _will_emit(state)]
        self._complete(span)
        return Iteration(self._clock_ps / PS_PER_S, emitted, self._log.take())

    def _check(self, seq: Sequence) -> None:
        if seq.id in self._states:
            raise ValueError(f"sequence {seq.id} is already in the engine")
        if seq.prompt_tokens < 1 or seq.output_tokens < 1:
            raise ValueError(f"sequence {seq.id}: prompt and output must have at least one token")
        if self._cache.blocks_for(seq.prompt_tokens + seq.output_tokens) > self.profile.num_blocks:
            raise ValueError(f"sequence {seq.id} can never fit: {self.profile.num_blocks} KV blocks in all")

    def _run_until(self, until_ps: int) -> int:
        """Run what ends by then. Returns that instant, or the model's own clock where that is later."""
        while self._states and (self._span is not None or self._clock_ps < until_ps):
            span = self._planned()
            if span.end_ps > until_ps:
                break
            self._complete(span)
        return max(self._clock_ps, until_ps)

    def _stop_jump(self, now_ps: int) -> None:
        if self._span is not None and self._span.count > 1:
            self._span.stop_after(now_ps)

    def _planned(self) -> IterationSpan:
        """The iterations under way, started at the model's clock if there are none."""
        if self._span is None:
            preempted = self._make_room()
            self._cache.blocks.take(self._batch.blocks_due())
            prefills, prefill_tokens = self._schedule_prefills(admit=not preempted)
            self._span = self._costs.span(self._clock_ps, self._batch, prefills, prefill_tokens)
            # After a preemption nobody is admitted, but in the next iteration somebody may be.
            if not prefills and not preempted:
                self._span.count = self._identical_iterations()
        return self._span

    def _identical_iterations(self) -> int:
        limit = self._batch.iterations_to_finish()
        if self._max_jump is not None:
            limit = min(limit, self._max_jump)
        return self._batch.iterations_that_fit(limit, self._cache.blocks.free)

    def _make_room(self) -> bool:
        """Preempt until the running sequences have the blocks that this iteration needs; whether any was."""
        preempted = False
        while self._blocks_wanted() > self._cache.blocks.free:
            self._preempt(self._victim())
            preempted = True
        return preempted

    def _blocks_wanted(self) -> int:
        wanted = self._batch.blocks_due()
        state = self._prefilling
        if state is not None:
            budget = self.profile.max_num_batched_tokens - self._batch.size
            wanted += self._cache.growth(state, min(state.num_tokens - state.computed, budget))
        return wanted

    def _victim(self) -> SequenceState:
        if self.policy is SchedulingPolicy.FCFS:
            return self._running[next(reversed(self._running))]
        return max(self._running.values(), key=lambda state: state.rank)

    def _preempt(self, state: SequenceState) -> None:
        self._give_up_slot(state)
        state.status = Status.WAITING
        state.preemptions += 1
        self.counters.preemptions += 1
        self._waiting.push_preempted(state.seq.id, state.seq.priority, state.arrival_ps)
        self._log.note(EventKind.PREEMPTED, state, self._clock_ps)

    def _schedule_prefills(self, *, admit: bool) -> tuple[list[SequenceState], int]:
        """Fill the token budget, a half-done prefill first, then waiters: (sequences, tokens computed)."""
        budget = left = self.profile.max_num_batched_tokens - self._batch.size
        prefills: list[SequenceState] = []
        if self._prefilling is not None:
            left -= self._prefill_chunk(self._prefilling, left)
            prefills.append(self._prefilling)
        while admit and left and len(self._waiting) and len(self._running) < self.profile.max_num_seqs:
            state = self._states[self._waiting.peek()]
            if not self._take_slot(state):
                break
            left -= self._prefill_chunk(state, left)
            prefills.append(state)
        # Only the last one can be unfinished: it used the budget up.
        unfinished = bool(prefills) and prefills[-1].computed < prefills[-1].num_tokens
        self._prefilling = prefills[-1] if unfinished else None
        return prefills, budget - left

    def _take_slot(self, state: SequenceState) -> bool:
        had_computed = state.computed
        if not self._cache.admit(state):
            return False
        self._waiting.remove(state.seq.id)
        self._running[state.seq.id] = state
        state.status = Status.PREFILL
        if state.scheduled_ps is None:
            state.scheduled_ps = self._clock_ps
            state.cached_tokens = state.computed
            self.counters.prompt_tokens += state.num_tokens
            self.counters.prompt_tokens_cached += state.computed
        self.counters.recomputed_tokens += max(0, had_computed - state.computed)
        return True

    def _prefill_chunk(self, state: SequenceState, budget: int) -> int:
        tokens = min(state.num_tokens - state.computed, budget)
        self._cache.compute(state, tokens)
        return tokens

    def _complete(self, span: IterationSpan) -> None:
        """The iterations of the span are over: tokens come out, sequences finish, aborted ones leave."""
        self._span = None
        self._clock_ps = span.end_ps
        self._cache.blocks.take(self._batch.blocks_due_over(1, span.count))
        self.counters.iterations += span.count
        self.counters.generation_tokens += self._batch.size * span.count
        self._batch.advance(span.count)
        while self._aborting:
            self._leave(self._aborting.pop(), EventKind.ABORTED)
        for state in span.prefills:
            if _will_emit(state):
                self._emit_after_prefill(state)
        for state in self._batch.pop_finished():
            self._leave(state, EventKind.FINISHED)

    def _emit_after_prefill(self, state: SequenceState) -> None:
        state.emitted += 1
        self.counters.generation_tokens += 1
        if state.emitted == 1:
            self._log.note(EventKind.FIRST_TOKEN, state, self._clock_ps)
        if state.emitted == state.seq.output_tokens:
            self._leave(state, EventKind.FINISHED)
        else:
            self._batch.join(state)

    def _leave(self, state: SequenceState, kind: EventKind) -> None:
        self._give_up_slot(state)
        self._end(state, kind, self._clock_ps)

    def _give_up_slot(self, state: SequenceState) -> None:
        self._batch.leave(state)
        if state is self._prefilling:
            self._prefilling = None
        del self._running[state.seq.id]
        self._cache.release(state)

    def _end(self, state: SequenceState, kind: EventKind, at_ps: int) -> None:
        del self._states[state.seq.id]
        self._log.note(kind, state, at_ps)


def _will_emit(state: SequenceState) -> bool:
    return not state.aborting and (state.status is Status.DECODE or state.computed == state.num_tokens)


def _picoseconds(seconds: float) -> int:
    return round(seconds * PS_PER_S)


def _seconds_not_before(ps: int) -> float:
    # Far from zero a float cannot hold every picosecond, and rounding down would name an instant too early.
    seconds = ps / PS_PER_S
    return seconds if _picoseconds(seconds) >= ps else math.nextafter(seconds, math.inf)
