"""What goes into the engine model and what comes out of it."""

from collections.abc import Sequence as SequenceOf
from enum import Enum, StrEnum
from typing import Final, NamedTuple

import msgspec

from training.engine.blocks import FreedRun

PS_PER_S: Final = 10**12


class Sequence(msgspec.Struct, frozen=True):
    """One answer to compute. `block_hashes` name the prompt's full KV blocks, each covering its prefix."""

    id: int
    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    block_hashes: SequenceOf[int] = ()


class EventKind(StrEnum):
    """What can happen to a sequence that its sender may want to know of."""

    FIRST_TOKEN = "first_token"  # noqa: S105 - a token of text, no secret
    PREEMPTED = "preempted"
    FINISHED = "finished"
    ABORTED = "aborted"


class Event(NamedTuple):
    """What happened, to whom, when; with the sequence's record so far (queue_s: wait for its first slot)."""

    kind: EventKind
    sequence_id: int
    at_s: float
    queue_s: float
    cached_tokens: int
    preemptions: int


class EventLog:
    """Events in the order in which they happened, until they are taken."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def note(self, kind: EventKind, state: "SequenceState", at_ps: int) -> None:
        """Something happened to a sequence."""
        scheduled_ps = at_ps if state.scheduled_ps is None else state.scheduled_ps
        queue_s = (scheduled_ps - state.arrival_ps) / PS_PER_S
        event = Event(kind, state.seq.id, at_ps / PS_PER_S, queue_s, state.cached_tokens, state.preemptions)
        self._events.append(event)

    def take(self) -> list[Event]:
        """All of them, once."""
        events, self._events = self._events, []
        return events


class Iteration(NamedTuple):
    """One iteration: when it ended, whose token it produced, and what else happened up to its end."""

    end_s: float
    emitted: list[int]
    events: list[Event]


class EngineCounters(msgspec.Struct):
    """Totals since the start. Prompt tokens are counted at a sequence's first admission, as vLLM does."""

    iterations: int = 0
    prompt_tokens: int = 0
    prompt_tokens_cached: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    refused: int = 0


class QueueFullError(Exception):
    """The engine holds `max_num_queued_reqs` sequences, waiting or running; vLLM answers 503."""


class Status(Enum):
    """Where a sequence stands inside the engine."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    LEFT = "left"


class SequenceState:
    """A sequence inside the engine: the model's own, mutable record.

    `computed` counts the tokens in the KV cache, `emitted` the answer's tokens so far. While it decodes both
    are read off the batch's iteration counter (see DecodeBatch), not stored.
    """

    __slots__ = (
        "aborting",
        "arrival_ps",
        "cached_tokens",
        "computed",
        "emitted",
        "finish_at",
        "joined_at",
        "left_behind",
        "named_blocks",
        "preemptions",
        "scheduled_ps",
        "seq",
        "shared",
        "status",
    )

    def __init__(self, seq: Sequence, arrival_ps: int) -> None:
        self.seq = seq
        self.arrival_ps = arrival_ps
        self.status = Status.WAITING
        self.aborting = False
        self.emitted = 0
        self.computed = 0
        self.joined_at = 0
        self.finish_at = 0
        self.shared: list[int] = []
        self.named_blocks = 0
        self.left_behind: FreedRun | None = None
        self.cached_tokens = 0
        self.scheduled_ps: int | None = None
        self.preemptions = 0

    @property
    def rank(self) -> tuple[int, int, int]:
        """Place under the `priority` policy: lower goes first, the highest is preempted first."""
        return self.seq.priority, self.arrival_ps, self.seq.id

    @property
    def num_tokens(self) -> int:
        """Prompt and the answer so far: what has to be in the cache before the next token comes."""
        return self.seq.prompt_tokens + self.emitted
