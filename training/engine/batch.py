"""The sequences that decode together, one token each per iteration, without touching each one every time."""

import heapq
from collections.abc import Iterator

from training.engine.types import SequenceState, Status


class DecodeBatch:
    """Progress of a whole batch as one counter.

    A sequence that joins at iteration j with c tokens in the cache has c + i - j of them at iteration i,
    needs a new block whenever that is a multiple of the block size, and finishes at an iteration known on
    joining. So a count per residue and a heap of finishes tell all that running many iterations at once takes.
    """

    def __init__(self, block_size: int) -> None:
        self.iteration = 0
        self.size = 0
        self.kv_tokens = 0
        self._block_size = block_size
        self._due = [0] * block_size
        self._finishes: list[tuple[int, int, SequenceState]] = []

    def join(self, state: SequenceState) -> None:
        """Add a sequence whose prefill is done; `computed` and `emitted` are right at this moment."""
        state.status = Status.DECODE
        state.joined_at = self.iteration
        state.finish_at = self.iteration + state.seq.output_tokens - state.emitted
        self.size += 1
        self.kv_tokens += state.computed
        self._due[(self.iteration - state.computed) % self._block_size] += 1
        heapq.heappush(self._finishes, (state.finish_at, state.seq.id, state))

    def leave(self, state: SequenceState) -> None:
        """Take a sequence out, with its progress written back to it; nothing if it does not decode."""
        if state.status is not Status.DECODE:
            return
        state.status = Status.LEFT
        self._due[(state.joined_at - state.computed) % self._block_size] -= 1
        progress = self.iteration - state.joined_at
        state.computed += progress
        state.emitted += progress
        self.size -= 1
        self.kv_tokens -= state.computed

    def advance(self, iterations: int) -> None:
        """Every sequence computes and emits that many tokens."""
        self.iteration += iterations
        self.kv_tokens += self.size * iterations

    def pop_finished(self) -> Iterator[SequenceState]:
        """In order, the sequences that have emitted all their tokens; the caller lets each leave."""
        while self._finishes and self._finishes[0][0] <= self.iteration:
            finish_at, _, state = heapq.heappop(self._finishes)
            if _still_due(state, finish_at):
                yield state

    def iterations_to_finish(self) -> int:
        """Iterations until the next sequence finishes; the batch must not be empty."""
        while not _still_due(self._finishes[0][2], self._finishes[0][0]):
            heapq.heappop(self._finishes)
        return self._finishes[0][0] - self.iteration

    def blocks_due(self, ahead: int = 0) -> int:
        """New blocks that the batch takes `ahead` iterations from now."""
        return self._due[(self.iteration + ahead) % self._block_size]

    def blocks_due_over(self, first: int, stop: int) -> int:
        """New blocks over the iterations `first` to `stop` - 1 from now."""
        cycles, rest = divmod(stop - first, self._block_size)
        return cycles * self.size + sum(self.blocks_due(first + index) for index in range(rest))

    def iterations_that_fit(self, limit: int, free_blocks: int) -> int:
        """Iterations, `limit` at most, that `free_blocks` suffice for; the first has its blocks already."""
        if self.blocks_due_over(1, limit) <= free_blocks:
            return limit
        ahead = 1
        while free_blocks >= self.blocks_due(ahead):
            free_blocks -= self.blocks_due(ahead)
            ahead += 1
        return ahead


def _still_due(state: SequenceState, finish_at: int) -> bool:
    # A sequence that was preempted or aborted leaves its old entry in the heap.
    return state.status is Status.DECODE and state.finish_at == finish_at
