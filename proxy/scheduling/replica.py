"""One engine in the scheduler's eyes: what is there, and whether one more request may go."""

import msgspec

from proxy.scheduling.kv import KvBudget
from proxy.scheduling.queued import QueuedRequest


class Replica(msgspec.Struct, eq=False):
    """One engine. At most `window` requests are at it at once; None: no limit.

    `kv` keeps what they are predicted to hold within its KV cache, once the engine's gauge has told its size.
    """

    name: str
    window: int | None
    running: int = 0
    available: bool = True
    by_tier: dict[int, int] = {}
    kv: KvBudget = msgspec.field(default_factory=KvBudget)

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent now, unless it is too large."""
        return self.available and (self.window is None or self.running < self.window)

    def bears(self, item: QueuedRequest) -> bool:
        """Whether its KV cache is thought to bear this request too. One may always run.

        Without a window the engine orders by itself, and has a queue of ours in it that holds no cache yet.
        """
        return self.window is None or self.kv.fits(item.prompt_tokens, item.answers * item.prediction.tokens)

    def start(self, item: QueuedRequest, tier: int) -> None:
        """A request is sent here."""
        item.replica = self.name
        self.running += 1
        self.by_tier[tier] = self.by_tier.get(tier, 0) + 1
        self.kv.admit(item.seq, item.prompt_tokens, item.answers * item.prediction.tokens)

    def finish(self, item: QueuedRequest, tier: int) -> None:
        """It has left."""
        self.running -= 1
        self.by_tier[tier] -= 1
        self.kv.release(item.seq)
