"""Engine profiles are possible engines."""

import msgspec
import pytest

from training.engine import EngineModel, EventKind, Sequence
from training.profiles import PROFILES, EngineProfile, profile_named


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_profile_runs(profile: EngineProfile) -> None:
    """A full house of ordinary requests is served without preemption."""
    model = EngineModel(profile)
    for number in range(profile.max_num_seqs):
        model.submit(Sequence(number, 100, 100), 0.0)
    assert sum(event.kind is EventKind.FINISHED for event in model.advance(1e6)) == profile.max_num_seqs
    assert model.counters.preemptions == 0


def batch_latency_s(profile: EngineProfile, sequences: int, prompt: int, tokens: int) -> float:
    """Seconds until so many equal requests, sent at once, are done."""
    model = EngineModel(profile)
    for number in range(sequences):
        model.submit(Sequence(number, prompt, tokens), 0.0)
    return model.advance(1e6)[-1].at_s


@pytest.mark.parametrize(("name", "published_s"), [("h100-8b", 0.9975), ("h100-70b", 2.4445)])
def test_gpu_profiles_have_the_published_latency(name: str, published_s: float) -> None:
    """vLLM's performance benchmark on H100, build 9555: 8 sequences, 32 tokens in, 128 out; within 3%."""
    assert batch_latency_s(profile_named(name), 8, 32, 128) == pytest.approx(published_s, rel=0.03)


def test_the_cpu_profile_has_the_measured_rates() -> None:
    """About 20 tokens/s alone, 130 with 8 sequences, 1,000 prompt tokens/s: SmolLM2-135M on two cores."""
    profile = profile_named("cpu-smollm2")
    assert 128 / batch_latency_s(profile, 1, 32, 128) == pytest.approx(20, rel=0.15)
    assert 8 * 128 / batch_latency_s(profile, 8, 32, 128) == pytest.approx(130, rel=0.15)
    assert 1_500 / batch_latency_s(profile, 1, 1_500, 1) == pytest.approx(1_000, rel=0.15)


def test_an_unknown_name_lists_the_known_ones() -> None:
    """ValueError says what there is."""
    with pytest.raises(ValueError, match=r"demo.*h100-8b"):
        profile_named("tpu")


@pytest.mark.parametrize(
    "change",
    [
        {"base_s": 0.0},
        {"kv_token_s": -1e-9},
        {"max_num_seqs": 0},
        {"block_size": 0},
        {"max_num_batched_tokens": 7},
    ],
)
def test_impossible_profiles_are_refused(change: dict[str, float]) -> None:
    """Time must pass, costs are not negative, every running sequence gets its token."""
    fields = msgspec.structs.asdict(profile_named("demo")) | change
    with pytest.raises(ValueError, match="profile demo"):
        EngineProfile(**fields)
