"""Predicted work: an engine profile's costs, and the map from work to its place, as an artifact carries it."""

from typing import Final

import numpy as np
import numpy.typing as npt

from predictor.calibration import MonotoneMap
from predictor.order import WorkScale
from training.profiles import EngineProfile

DoubleArray = npt.NDArray[np.float64]

_KNOTS: Final = 129
_TOKENS_PER_CHARACTER: Final = 0.25


def fit_work(
    profile: EngineProfile,
    prompt_tokens: DoubleArray,
    output_tokens: DoubleArray,
    tokens_per_character: float = _TOKENS_PER_CHARACTER,
) -> WorkScale:
    """The profile's costs, and the places of these requests' work; `output_tokens` as predicted."""
    per_output_s = profile.base_s / profile.max_num_seqs + profile.decode_sequence_s
    flat = MonotoneMap([0.0], [0.5])
    scale = WorkScale(profile.prefill_token_s, per_output_s, profile.kv_token_s, tokens_per_character, flat)
    work_s = work_of(scale, prompt_tokens, output_tokens)
    knots = np.linspace(0, 1, min(_KNOTS, len(work_s)))
    values, first = np.unique(np.quantile(work_s, knots), return_index=True)
    last = np.append(first[1:], len(knots)) - 1
    # Equal work shares the middle of its places.
    middle = (knots[first] + knots[last]) / 2
    return WorkScale(
        profile.prefill_token_s,
        per_output_s,
        profile.kv_token_s,
        tokens_per_character,
        MonotoneMap(values.tolist(), middle.tolist()),
    )


def work_of(scale: WorkScale, prompt_tokens: DoubleArray, output_tokens: DoubleArray) -> DoubleArray:
    """Seconds of engine time of each request (n,)."""
    pairs = zip(prompt_tokens.tolist(), output_tokens.tolist(), strict=True)
    return np.array([scale.work_s(prompt, output) for prompt, output in pairs])
