"""Who holds which KV blocks: the block pool seen from the sequences."""

from training.engine.blocks import KvBlocks
from training.engine.types import SequenceState


class KvCache:
    """Gives sequences their blocks, shares cached prefixes, takes blocks back.

    After vLLM's `v1/core/kv_cache_manager.py`: only full prompt blocks are shared, at most the prompt less
    its last token; they can be found as soon as their computation is scheduled. Generated tokens are found
    again only by the sequence that was preempted.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.blocks = KvBlocks(num_blocks)
        self.block_size = block_size

    @property
    def usage(self) -> float:
        """Share of the blocks that are held, in [0, 1]."""
        return self.blocks.used / self.blocks.total

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_size)

    def growth(self, state: SequenceState, tokens: int) -> int:
        """Further blocks that the sequence needs for `tokens` more of its tokens."""
        return self.blocks_for(state.computed + tokens) - self.blocks_for(state.computed)

    def admit(self, state: SequenceState) -> bool:
        """Hold what is cached of a waiter, and count it as computed. False, and nothing held, if all of its
        tokens together would not fit."""
        hashes = state.seq.block_hashes
        cacheable = (state.num_tokens - 1) // self.block_size
        hits, unheld = self.blocks.match(hashes[:cacheable])
        if self.blocks_for(state.num_tokens) - hits + unheld > self.blocks.free:
            return False
        self.blocks.share(hashes[:hits])
        state.shared = list(hashes[:hits])
        state.named_blocks = hits
        state.computed = (hits + self._reclaim(state, cacheable - hits)) * self.block_size
        return True

    def compute(self, state: SequenceState, tokens: int) -> None:
        """Take the blocks for the next `tokens` of its prompt, and let others find the full ones."""
        self.blocks.take(self.growth(state, tokens))
        state.computed += tokens
        hashes = state.seq.block_hashes
        full = min(len(hashes), min(state.computed, state.seq.prompt_tokens) // self.block_size)
        state.shared += [block for block in hashes[state.named_blocks : full] if self.blocks.publish(block)]
        state.named_blocks = max(full, state.named_blocks)

    def release(self, state: SequenceState) -> None:
        """Take back all blocks of a sequence; the cache remembers them until they are needed."""
        held = self.blocks_for(state.computed)
        run = self.blocks.release(state.shared, held - len(state.shared))
        # Where another sequence named a prompt block first, the private blocks are not one run of tokens.
        state.left_behind = run if len(state.shared) == state.named_blocks else None
        state.shared = []
        state.named_blocks = 0

    def _reclaim(self, state: SequenceState, at_most: int) -> int:
        run = state.left_behind
        state.left_behind = None
        if run is None or run.leading != state.named_blocks:
            return 0
        count = min(run.blocks, at_most)
        if count:
            self.blocks.reclaim(run, count)
        return count
