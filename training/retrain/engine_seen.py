"""The engine behind a traffic log: the profile that is most like it, scaled to the pace that the log shows."""

import math
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
# No engine has a longer context; a larger request is a broken record.
_LONGEST: Final = 1 << 20


def profile_seen(records: Sequence[TrafficRecord]) -> EngineProfile:
    """Time per output token and concurrency choose and scale a profile; h100-8b where too few answers tell.

    Where requests queued, so many as ran at once are taken for the engine's slots. What was served fits: its context
    is as long as the longest request, its cache as large as those that ran at once, and a prompt costs no more than the
    time until first tokens came: engines of one pace per output token differ widely in that.
    """
    telling = [one for one in records if _tells(one)]
    streams = [one for one in telling if one.stream]
    # An answer that came at once tells its prefill too: only where there is nothing better.
    seen = streams if len(streams) >= _FEWEST else telling
    if len(seen) < _FEWEST:
        return _UNKNOWN
    token_s = float(np.median([_token_s(one) for one in seen]))
    running = _running(seen) / len({one.replica for one in seen})
    context = float(np.mean([(one.prompt_tokens or 0) + (one.output_tokens or 0) / 2 for one in seen]))
    longest = max(size for one in records if one.output_tokens and (size := _size(one)) <= _LONGEST)
    ratios = {name: token_s / _modelled_s(one, running, context) for name, one in PROFILES.items()}
    nearest = min(ratios, key=lambda name: abs(np.log(ratios[name])))
    base = PROFILES[nearest]
    scaled = {cost: getattr(base, cost) * ratios[nearest] for cost in _COSTS}
    scaled["prefill_token_s"] = min(scaled["prefill_token_s"], _most_prefill_s(streams))
    slots = max(1, round(running)) if _queued(seen) else base.max_num_seqs
    blocks = math.ceil(max(longest, running * context) / base.block_size)
    return msgspec.structs.replace(
        base,
        name=f"{nearest} x {ratios[nearest]:.3g}, {slots} slots",
        num_blocks=max(blocks, base.num_blocks),
        max_model_len=max(longest, base.max_model_len),
        max_num_seqs=slots,
        max_num_batched_tokens=max(slots, base.max_num_batched_tokens),
        **scaled,
    )


def _tells(one: TrafficRecord) -> bool:
    # What waits inside the engine leaves no trace in an answer that comes at once.
    known = None not in (one.queue_s, one.ttft_s, one.e2e_s) and (one.stream or one.mode != "engine")
    sizes = (one.output_tokens or 0) >= _MANY_TOKENS and _size(one) <= _LONGEST
    return known and sizes and _token_s(one) > 0


def _size(one: TrafficRecord) -> int:
    return (one.prompt_tokens or 0) + (one.output_tokens or 0)


def _token_s(one: TrafficRecord) -> float:
    before_s, tokens = (
        (one.ttft_s, (one.output_tokens or 2) - 1) if one.stream else (one.queue_s, one.output_tokens)
    )
    return ((one.e2e_s or 0.0) - (before_s or 0.0)) / (tokens or 1)


def _most_prefill_s(streams: Sequence[TrafficRecord]) -> float:
    """What a prompt token can have cost at most: no first token comes before its whole prompt, or what of it was not
    cached, is computed. By the middle of all streams; infinity where none tells."""
    after_s = [
        ((one.ttft_s or 0.0) - (one.queue_s or 0.0)) / one.prompt_tokens
        for one in streams
        if one.prompt_tokens
    ]
    return float(np.median(told)) if (told := [one for one in after_s if one > 0]) else math.inf


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
