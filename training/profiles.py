"""Engine profiles: how long an iteration takes and how much fits, for the replay and the emulated engine."""

from typing import Final

import msgspec


class EngineProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine on one machine can do.

    An iteration lasts `base_s` + `prefill_token_s` x prompt tokens computed in it + `decode_sequence_s` x
    sequences that decode in it + `kv_token_s` x tokens of context that all of these attend to. Cache size is
    `num_blocks` blocks of `block_size` tokens; the limits are vLLM's `--max-num-seqs` and
    `--max-num-batched-tokens`. ValueError where the figures cannot make an engine.
    """

    name: str
    base_s: float
    prefill_token_s: float
    decode_sequence_s: float
    kv_token_s: float
    block_size: int
    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int

    def __post_init__(self) -> None:
        if min(self.base_s, self.prefill_token_s, self.decode_sequence_s, self.kv_token_s) < 0:
            raise ValueError(f"profile {self.name}: a cost is negative")
        if self.base_s <= 0:
            raise ValueError(f"profile {self.name}: base_s must be above 0, or time would stand still")
        if min(self.block_size, self.num_blocks, self.max_num_seqs, self.max_model_len) < 1:
            raise ValueError(f"profile {self.name}: sizes must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(f"profile {self.name}: max_num_batched_tokens must be at least max_num_seqs")


# One H100 SXM (3.35 TB/s, 989 dense BF16 TFLOP/s by NVIDIA's data sheet), Llama-3.1-8B in BF16 (8.03 B
# parameters, 32 layers, 8 KV heads of 128 by the model's card). The base is set by vLLM's own performance
# benchmark on H100 (build 9555: 8 sequences, 32 tokens in, 128 out: 0.998 s): 16.1 GB of weights at 80% of the
# bandwidth are 6.0 ms of it. Rooflines for the rest. prefill: 2 x 8.03e9 FLOP at 55% of the peak. kv: 131,072
# bytes per token at 80% of the bandwidth. decode: matrix work that the reading of weights does not hide, and
# sampling. blocks: (0.9 x 80 - 16.1 - 3) GB / 131,072 B / 16. In all ~130 tok/s alone, ~10,000 at 128.
_H100_8B: Final = EngineProfile(
    name="h100-8b",
    base_s=7.6e-3,
    prefill_token_s=29.5e-6,
    decode_sequence_s=15e-6,
    kv_token_s=49e-9,
    block_size=16,
    num_blocks=25_000,
    max_num_seqs=128,
    max_num_batched_tokens=8_192,
    max_model_len=131_072,
)

# Four H100 SXM with tensor parallelism, Llama-3-70B in BF16 (70.6 B parameters, 80 layers, 8 KV heads of 128).
# The base from the same build (8 sequences, 32 in, 128 out: 2.444 s): 35.3 GB of weights per GPU are 13 ms of
# it, 160 all-reduces most of the rest. prefill: 2 x 70.6e9 FLOP over 4 x 989 TFLOP/s at 45%. kv: 327,680 bytes
# per token over four GPUs. blocks: (4 x 0.9 x 80 - 141 - 12) GB / 327,680 B / 16. In all ~53 tok/s alone,
# ~5,000 at 128.
_H100_70B: Final = EngineProfile(
    name="h100-70b",
    base_s=18.8e-3,
    prefill_token_s=79e-6,
    decode_sequence_s=30e-6,
    kv_token_s=30.5e-9,
    block_size=16,
    num_blocks=25_700,
    max_num_seqs=128,
    max_num_batched_tokens=8_192,
    max_model_len=131_072,
)

# vLLM on two CPU cores with SmolLM2-135M: ~20 tok/s alone, ~130 tok/s at 8 sequences, ~1,000 prompt tokens/s
# in prefill, 2 GiB of KV cache (46,080 bytes per token).
_CPU_SMOLLM2: Final = EngineProfile(
    name="cpu-smollm2",
    base_s=48.0e-3,
    prefill_token_s=1.0e-3,
    decode_sequence_s=1.5e-3,
    kv_token_s=0.5e-6,
    block_size=32,
    num_blocks=1_456,
    max_num_seqs=8,
    max_num_batched_tokens=2_048,
    max_model_len=4_096,
)

# The engine of `headway demo`: iterations long enough for one core's event loop to keep up with (4.4 ms with
# all 16 slots busy), short enough for 240 of the recorded answers, 190 tokens in the mean, in some 13 seconds.
_DEMO: Final = EngineProfile(
    name="demo",
    base_s=4.0e-3,
    prefill_token_s=10e-6,
    decode_sequence_s=20e-6,
    kv_token_s=10e-9,
    block_size=16,
    num_blocks=4_096,
    max_num_seqs=16,
    max_num_batched_tokens=2_048,
    max_model_len=4_096,
)

PROFILES: Final = {profile.name: profile for profile in (_H100_8B, _H100_70B, _CPU_SMOLLM2, _DEMO)}


def profile_named(name: str) -> EngineProfile:
    """The profile of that name; ValueError names the ones there are."""
    try:
        return PROFILES[name]
    except KeyError:
        raise ValueError(f"no engine profile {name!r}: choose from {', '.join(sorted(PROFILES))}") from None
