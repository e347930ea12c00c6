"""What the engine model's tests share: engines whose times can be read off, and all that happens in them."""

import msgspec

from training.engine import EngineModel, Event, EventKind, SchedulingPolicy
from training.profiles import EngineProfile

FCFS, PRIORITY = SchedulingPolicy.FCFS, SchedulingPolicy.PRIORITY
# One second an iteration and nothing else: times can be read off as iteration counts.
TICK = EngineProfile(
    name="tick",
    base_s=1.0,
    prefill_token_s=0.0,
    decode_sequence_s=0.0,
    kv_token_s=0.0,
    block_size=4,
    num_blocks=1_000,
    max_num_seqs=2,
    max_num_batched_tokens=100,
    max_model_len=1_000,
)
COSTLY = msgspec.structs.replace(
    TICK,
    base_s=0.011,
    prefill_token_s=0.0007,
    decode_sequence_s=0.0003,
    kv_token_s=0.000013,
    num_blocks=24,
    max_num_seqs=3,
    max_num_batched_tokens=16,
)


def profile(**changes: object) -> EngineProfile:
    """TICK with changes."""
    return msgspec.structs.replace(TICK, **changes)


def drain(model: EngineModel) -> list[Event]:
    """Everything that happens until the engine is idle."""
    events: list[Event] = []
    while (at_s := model.next_event_s()) is not None:
        events += model.advance(at_s)
    return events


def times(events: list[Event], kind: EventKind) -> dict[int, float]:
    """When it happened to each sequence."""
    return {event.sequence_id: event.at_s for event in events if event.kind is kind}


def order(events: list[Event], kind: EventKind) -> list[int]:
    """To whom it happened, in order."""
    return [event.sequence_id for event in events if event.kind is kind]
