"""A fixed number of KV blocks: free ones in eviction order, cached prefixes found by hash."""

from collections import OrderedDict
from collections.abc import Sequence


class FreedRun:
    """Blocks that one sequence left behind, none of them shared. Eviction shortens it from its end."""

    __slots__ = ("blocks", "leading")

    def __init__(self, blocks: int, leading: int) -> None:
        self.blocks = blocks
        self.leading = leading


class KvBlocks:
    """Blocks by count; only full prompt blocks have an identity (a hash), and only those can be shared.

    Follows vLLM's `v1/core/block_pool.py`: a freed block keeps its content until it is taken again, the least
    recently freed one first, and a sequence's last block before its first. Blocks of generated tokens are
    nobody else's, so a whole run of them is one entry: that is what makes long replays quick.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._never_used = total
        self._evictable: OrderedDict[int | FreedRun, None] = OrderedDict()
        self._holders: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Blocks that some sequence holds."""
        return self.total - self.free

    def match(self, hashes: Sequence[int]) -> tuple[int, int]:
        """(how many leading blocks are cached, how many of these nobody holds at present)."""
        unheld = 0
        for index, block in enumerate(hashes):
            if block in self._holders:
                continue
            if block not in self._evictable:
                return index, unheld
            unheld += 1
        return len(hashes), unheld

    def share(self, hashes: Sequence[int]) -> None:
        """Hold cached blocks; each must have been found by `match`."""
        for block in hashes:
            holders = self._holders.get(block, 0)
            self._holders[block] = holders + 1
            if not holders:
                del self._evictable[block]
                self.free -= 1

    def take(self, count: int) -> None:
        """Take free blocks, forgetting what the least recently freed ones hold. The caller checks `free`."""
        self.free -= count
        unused = min(count, self._never_used)
        self._never_used -= unused
        count -= unused
        while count:
            count -= self._evict(count)

    def publish(self, block: int) -> bool:
        """Name a block that a sequence holds. False if the name is taken: that block stays private."""
        if block in self._holders or block in self._evictable:
            return False
        self._holders[block] = 1
        return True

    def release(self, shared: Sequence[int], private: int) -> FreedRun:
        """Give back one sequence's blocks; the private ones are evicted before the shared ones."""
        run = FreedRun(private, len(shared))
        self.free += private
        if private:
            self._evictable[run] = None
        for block in reversed(shared):
            self._drop_holder(block)
        return run

    def reclaim(self, run: FreedRun, count: int) -> None:
        """Hold again the first `count` blocks of what a preempted sequence left and nobody has taken."""
        run.blocks -= count
        self.free -= count
        if not run.blocks:
            del self._evictable[run]

    def _drop_holder(self, block: int) -> None:
        holders = self._holders[block] - 1
        if holders:
            self._holders[block] = holders
            return
        del self._holders[block]
        self._evictable[block] = None
        self.free += 1

    def _evict(self, wanted: int) -> int:
        oldest = next(iter(self._evictable))
        if not isinstance(oldest, FreedRun):
            del self._evictable[oldest]
            return 1
        taken = min(wanted, oldest.blocks)
        oldest.blocks -= taken
        if not oldest.blocks:
            del self._evictable[oldest]
        return taken
