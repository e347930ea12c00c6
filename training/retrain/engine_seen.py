"""The engine behind a traffic log: the profile that is most like it, scaled to the pace that the log shows."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from predictor.records import TrafficRecord
from training.profiles import PROFILES, EngineProfile

_FEWEST: Final = 20
_MANY_TOKENS: Final = 8
_COSTS: Final = ("base_s", "prefill_token_s", "decode_sequence_s", "kv_token_s")
# A queue is where the tenth of requests that wait longest wait this share of an answer's time.
_QUEUED_SHARE: Final = 0.05
_UNKNOWN: Final = PROFILES["h100-8b"]


def profile_seen(records: Sequence[TrafficRecord]) -> EngineProfile:
    """Time per output token and concurrency choose and scale a profile; h100-8b where too few streams tell.

    Where requests queued, so many as ran at once are taken for the engine's slots.
    """
    streams = [one for one in records if _tells(one)]
    if len(streams) < _FEWEST:
        return _UNKNOWN
    token_s = float(np.median([_token_s(one) for one in streams]))
    running = _running(streams) / len({one.replica for one in streams})
    context = float(np.mean([(one.prompt_tokens or 0) + (one.output_tokens or 0) / 2 for one in streams]))
    ratios = {name: token_s / _modelled_s(one, running, context) for name, one in PROFILES.items()}
    nearest = min(ratios, key=lambda name: abs(np.log(ratios[name])))
    scaled = {cost: getattr(PROFILES[nearest], cost) * ratios[nearest] for cost in _COSTS}
    slots = max(1, round(running)) if _queued(streams) else PROFILES[nearest].max_num_seqs
    budget = max(slots, PROFILES[nearest].max_num_batched_tokens)
    return msgspec.structs.replace(
        PROFILES[nearest],
        name=f"{nearest} x {ratios[nearest]:.3g}, {slots} slots",
        max_num_seqs=slots,
        max_num_batched_tokens=budget,
        **scaled,
    )


def _tells(one: TrafficRecord) -> bool:
    known = None not in (one.queue_s, one.ttft_s, one.e2e_s)
    return known and one.stream and (one.output_tokens or 0) >= _MANY_TOKENS and _token_s(one) > 0


def _token_s(one: TrafficRecord) -> float:
    return ((one.e2e_s or 0.0) - (one.ttft_s or 0.0)) / ((one.output_tokens or 2) - 1)


def _running(streams: Sequence[TrafficRecord]) -> float:
    """How many ran at once, at the busier tenth of the starts."""
    starts = np.sort([one.arrival_us / 1e6 + (one.queue_s or 0.0) for one in streams])
    ends = np.sort([one.arrival_us / 1e6 + (one.e2e_s or 0.0) for one in streams])
    at_once = np.arange(1, len(starts) + 1) - np.searchsorted(ends, starts, side="right")
    return max(1.0, float(np.quantile(at_once, 0.9)))


def _modelled_s(profile: EngineProfile, running: float, context: float) -> float:
    at_once = min(running, profile.max_num_seqs)
    return profile.base_s + at_once * (profile.decode_sequence_s + profile.kv_token_s * context)


def _queued(streams: Sequence[TrafficRecord]) -> bool:
    queue_s = np.quantile([one.queue_s or 0.0 for one in streams], 0.9)
    return bool(queue_s > _QUEUED_SHARE * np.mean([one.e2e_s or 0.0 for one in streams]))
