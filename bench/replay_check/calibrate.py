"""An engine's profile from a minute of measuring: what one iteration takes by batch, context and prompt tokens."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from scipy.optimize import nnls

from bench.replay_check.client import Ask, Seen
from training.profiles import EngineProfile

# Prompts of about so many words, so many of them at once, for so many tokens each.
_LENGTHS: Final = (20, 900)
_AT_ONCE: Final = (1, 2, 4, 8)
_ANSWER_TOKENS: Final = 33
_PREFILLS: Final = (20, 100, 300, 900)
_ROUNDS: Final = 2
_WORD: Final = "word "


class Decoding(msgspec.Struct, frozen=True):
    """`sequences` decoded together, `context` tokens in all on average: one iteration took `iteration_s`."""

    sequences: int
    context: float
    iteration_s: float


class Prefill(msgspec.Struct, frozen=True):
    """A prompt of so many tokens alone: its first token came after `ttft_s`."""

    prompt_tokens: int
    ttft_s: float


class Calibration(msgspec.Struct, frozen=True):
    """What was measured, and the profile that fits it. `overhead_s`: of a request, beside all iterations."""

    profile: EngineProfile
    overhead_s: float
    decodings: tuple[Decoding, ...]
    prefills: tuple[Prefill, ...]
    worst_error: float


async def calibrate(
    run: Callable[[Sequence[Ask]], Awaitable[list[Seen]]], limits: EngineProfile
) -> Calibration:
    """Measure by `run`, which sends requests; `limits` says what fits into the engine."""
    decodings: list[Decoding] = []
    prefills: list[Prefill] = []
    await run([_ask(20)] * limits.max_num_seqs)
    for _ in range(_ROUNDS):
        for words in _LENGTHS:
            decodings += [
                _decoding(await run([_ask(words)] * many)) for many in _AT_ONCE if many <= limits.max_num_seqs
            ]
        for words in _PREFILLS:
            (seen,) = await run([_ask(words, 1)])
            prefills.append(Prefill(seen.prompt_tokens, seen.first_s - seen.sent_s))
    return fit(decodings, prefills, limits)


def fit(decodings: Sequence[Decoding], prefills: Sequence[Prefill], limits: EngineProfile) -> Calibration:
    """Least squares of relative errors, no cost below zero."""
    rows = np.array([(1.0, one.sequences, one.context) for one in decodings])
    seconds = np.array([one.iteration_s for one in decodings])
    (base_s, decode_s, kv_s), _ = nnls(rows / seconds[:, None], np.ones(len(rows)))
    prompts = np.array([one.prompt_tokens for one in prefills], dtype=np.float64)
    ttft_s = np.array([one.ttft_s for one in prefills])
    (fixed_s, token_s), _ = nnls(
        np.stack([np.ones(len(prompts)), prompts], 1) / ttft_s[:, None], np.ones(len(prompts))
    )
    profile = msgspec.structs.replace(
        limits,
        name="measured",
        base_s=float(base_s),
        decode_sequence_s=float(decode_s),
        kv_token_s=float(kv_s),
        prefill_token_s=float(max(0.0, token_s - kv_s)),
    )
    modelled = np.concatenate(
        [rows @ (base_s, decode_s, kv_s) / seconds, (fixed_s + token_s * prompts) / ttft_s]
    )
    return Calibration(
        profile,
        float(max(0.0, fixed_s - base_s)),
        tuple(decodings),
        tuple(prefills),
        float(np.abs(modelled - 1).max()),
    )


def _ask(words: int, tokens: int = _ANSWER_TOKENS) -> Ask:
    return Ask(0.0, [{"role": "user", "content": _WORD * words}], tokens)


def _decoding(seen: Sequence[Seen]) -> Decoding:
    """From when the last of them began to answer to when the first one had ended."""
    began_s, ended_s = max(one.first_s for one in seen), min(one.end_s for one in seen)
    last = next(one for one in seen if one.first_s == began_s)
    iterations = (last.tokens - 1) * (ended_s - began_s) / (last.end_s - began_s)
    context = sum(one.prompt_tokens + one.tokens / 2 for one in seen)
    return Decoding(len(seen), context, (ended_s - began_s) / iterations)
