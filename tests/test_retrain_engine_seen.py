"""The engine behind a log, as far as the log can tell."""

import msgspec
import pytest

from predictor.records import Outcome, TrafficRecord
from training.profiles import profile_named
from training.retrain.engine_seen import profile_seen

PROFILE = profile_named("cpu-smollm2")


def stream(number: int, at_once: int, token_s: float, queue_s: float) -> TrafficRecord:
    """One of many streams, of which so many run at once."""
    lasts_s = 100 * token_s
    return TrafficRecord(
        f"r{number}", round(1e6 * number * lasts_s / (at_once - 0.5)), "chat", Outcome.COMPLETED, stream=True,
        replica="one", prompt_tokens=50, output_tokens=101, queue_s=queue_s, ttft_s=queue_s,
        e2e_s=queue_s + lasts_s,
    )  # fmt: skip


def test_pace_and_slots_are_read_off_a_log_with_a_queue() -> None:
    """An engine half as fast as the profile at six sequences: found as that, with six slots."""
    token_s = 2 * (PROFILE.base_s + 6 * (PROFILE.decode_sequence_s + 100 * PROFILE.kv_token_s))
    seen = profile_seen([stream(number, 6, token_s, 30.0) for number in range(200)])
    assert seen.name.startswith("cpu-smollm2")
    assert seen.base_s == pytest.approx(2 * PROFILE.base_s, rel=0.02)
    assert seen.max_num_seqs == 6


def test_without_a_queue_the_slots_are_the_profiles() -> None:
    """How many could run at once is not seen where nobody waited."""
    token_s = PROFILE.base_s + 3 * PROFILE.decode_sequence_s
    seen = profile_seen([stream(number, 3, token_s, 0.0) for number in range(200)])
    assert seen.max_num_seqs == PROFILE.max_num_seqs


def test_too_few_streams_tell_nothing() -> None:
    """Then it is the profile that a user would begin with."""
    assert profile_seen([stream(number, 3, 0.01, 0.0) for number in range(5)]) == profile_named("h100-8b")
    held = [msgspec.structs.replace(stream(n, 3, 0.01, 0.0), stream=False, mode="engine") for n in range(50)]
    assert profile_seen(held) == profile_named("h100-8b")


def test_answers_that_came_at_once_tell_the_pace_where_nobody_streams() -> None:
    """Their whole time is counted: a few tokens' worth of prefill too much, but the right kind of engine."""
    token_s = PROFILE.base_s + 3 * PROFILE.decode_sequence_s
    unary = [msgspec.structs.replace(stream(n, 3, token_s, 0.0), stream=False) for n in range(50)]
    assert profile_seen(unary).base_s == pytest.approx(PROFILE.base_s, rel=0.05)
    streams = [stream(n, 3, 2 * token_s, 0.0) for n in range(50)]
    assert profile_seen([*unary, *streams]) == profile_seen(streams)


def test_a_prompt_costs_no_more_than_the_wait_for_its_first_token() -> None:
    """As slow per output token as the CPU's profile, but 9,000 prompt tokens took 0.9 s: by that profile it were 9 s,
    and the order by work would be one of prompts."""
    token_s = PROFILE.base_s + 3 * PROFILE.decode_sequence_s
    long = [
        msgspec.structs.replace(one, prompt_tokens=9_000, ttft_s=0.9, e2e_s=(one.e2e_s or 0) + 0.9)
        for one in (stream(n, 3, token_s, 0.0) for n in range(50))
    ]
    seen = profile_seen(long)
    assert seen.name.startswith("cpu-smollm2")
    assert seen.prefill_token_s == pytest.approx(0.9 / 9_000)


def test_what_was_served_fits_into_the_engine_that_is_seen() -> None:
    """The profile that is nearest in pace may be a small engine's: its context and its cache hold what the log shows,
    or the longest requests would silently be missing from what the gate replays. A broken record counts for nothing."""
    token_s = PROFILE.base_s + 16 * PROFILE.decode_sequence_s
    long = [msgspec.structs.replace(stream(n, 16, token_s, 0.0), prompt_tokens=9_000 + n) for n in range(100)]
    short = msgspec.structs.replace(long[0], prompt_tokens=20_000, output_tokens=1)
    broken = msgspec.structs.replace(long[0], prompt_tokens=10**12)
    seen = profile_seen([*long, short, broken])
    assert seen.name.startswith("cpu-smollm2")
    assert seen.max_model_len == 20_001
    assert seen.num_blocks * seen.block_size >= 15 * 9_000
