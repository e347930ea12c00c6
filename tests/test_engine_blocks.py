"""KV blocks: counted right, evicted oldest first, found by prefix."""

from hypothesis import given
from hypothesis import strategies as st

from training.engine.blocks import KvBlocks
from training.engine.cache import KvCache
from training.engine.types import Sequence, SequenceState


class PlainBlocks:
    """The same rules spelled out block by block: a list of free blocks, oldest first, and who holds what."""

    def __init__(self, total: int) -> None:
        self.free: list[object] = [f"unused-{number}" for number in range(total)]
        self.holders: dict[object, int] = {}

    def match(self, hashes: list[int]) -> int:
        """Leading blocks that are cached."""
        return next((i for i, block in enumerate(hashes) if not self.known(block)), len(hashes))

    def known(self, block: object) -> bool:
        """Whether it is held or free with its content kept."""
        return block in self.holders or block in self.free

    def start(self, name: str, hashes: list[int], private: int) -> list[object]:
        """Share what is cached, take the rest, name what can be named. The blocks held, in token order."""
        hits = self.match(hashes)
        for block in hashes[:hits]:
            if block in self.free:
                self.free.remove(block)
            self.holders[block] = self.holders.get(block, 0) + 1
        rest: list[object] = []
        for number, block in enumerate([*hashes[hits:], *[None] * private]):
            self.free.pop(0)
            rest.append(block if block is not None and not self.known(block) else f"{name}-{number}")
            self.holders[rest[-1]] = 1
        return [*hashes[:hits], *rest]

    def stop(self, held: list[object]) -> None:
        """Give all back, private ones first, each kind from its end."""
        mine = [block for block in held if isinstance(block, str)]
        named = [block for block in held if not isinstance(block, str)]
        for block in [*reversed(mine), *reversed(named)]:
            self.holders[block] -= 1
            if not self.holders[block]:
                del self.holders[block]
                self.free.append(block)


PROMPTS = st.lists(st.integers(0, 3), max_size=4).map(
    # A block's hash covers its prefix, so equal hashes have equal predecessors.
    lambda path: [hash(tuple(path[: end + 1])) for end in range(len(path))]
)


@given(st.lists(st.tuples(PROMPTS, st.integers(0, 5), st.integers(0, 3)), max_size=40))
def test_blocks_behave_like_a_plain_free_list(requests: list[tuple[list[int], int, int]]) -> None:
    """Runs of private blocks are an accounting trick: counts, hits and evictions are those of single blocks."""
    blocks, plain = KvBlocks(20), PlainBlocks(20)
    running: list[tuple[list[int], int, list[object]]] = []
    for number, (hashes, private, stops) in enumerate(requests):
        hits, unheld = blocks.match(hashes)
        assert hits == plain.match(hashes)
        if len(hashes) + private - hits + unheld <= blocks.free:
            blocks.share(hashes[:hits])
            blocks.take(len(hashes) - hits + private)
            shared = hashes[:hits] + [block for block in hashes[hits:] if blocks.publish(block)]
            plain_held = plain.start(f"s{number}", hashes, private)
            running.append((shared, len(hashes) + private - len(shared), plain_held))
        for _ in range(min(stops, len(running))):
            shared, own, plain_held = running.pop(0)
            blocks.release(shared, own)
            plain.stop(plain_held)
        assert blocks.free == len(plain.free)
        assert blocks.used == len(plain.holders)


def test_eviction_takes_the_least_recently_freed_first_and_a_prompt_from_its_end() -> None:
    """What was freed long ago goes first; of one prompt the last block, so that its beginning stays useful."""
    blocks = KvBlocks(4)
    for prompt in ([1, 2], [3, 4]):
        blocks.take(2)
        assert all(blocks.publish(block) for block in prompt)
        blocks.release(prompt, 0)
    blocks.take(1)
    assert blocks.match([1, 2]) == (1, 1)
    blocks.take(1)
    assert blocks.match([1, 2]) == (0, 0)
    assert blocks.match([3, 4]) == (2, 2)


def test_a_name_is_given_once() -> None:
    """Two sequences that compute the same block side by side: the second one's stays private."""
    blocks = KvBlocks(2)
    blocks.take(2)
    assert blocks.publish(7)
    assert not blocks.publish(7)


def test_a_preempted_sequence_finds_its_generated_tokens_again_unless_evicted() -> None:
    """Full blocks of prompt and answer come back, from the first one to the first that was taken."""
    cache = KvCache(num_blocks=8, block_size=4)
    state = SequenceState(Sequence(1, prompt_tokens=8, output_tokens=20, block_hashes=(5, 6)), 0)
    assert cache.admit(state)
    cache.compute(state, 8)
    cache.blocks.take(2)
    state.computed, state.emitted = 15, 8  # two prompt blocks, one full and one half block of answer
    cache.release(state)
    cache.blocks.take(4)  # never used so far
    assert cache.admit(state)
    assert state.computed == 12
    cache.release(state)


def test_a_waiter_is_admitted_only_if_its_whole_prompt_fits() -> None:
    """Not just the first chunk; and a refusal holds nothing."""
    cache = KvCache(num_blocks=4, block_size=4)
    assert cache.admit(SequenceState(Sequence(1, 16, 1), 0))
    cache.blocks.take(1)
    assert not cache.admit(SequenceState(Sequence(2, 13, 1), 0))
    assert cache.blocks.free == 3
