"""The replay's check: a profile found again from what an engine did, and what counts as being off."""

import msgspec
import numpy as np
import pytest

from bench.replay_check.__main__ import at_its_pace, replayed
from bench.replay_check.calibrate import Decoding, Prefill, fit
from bench.replay_check.client import Ask, Seen, UnexpectedAnswerError, send_all
from bench.replay_check.verdict import check, disagree, goals, moved
from tests.emulation import HELLO, MODEL, emulated
from training.profiles import PROFILES
from training.replay.simulate import Pool

PROFILE = PROFILES["cpu-smollm2"]


def crowd(lengths: list[int]) -> list[Seen]:
    """Requests that are sent a tenth of a second apart; when they end is left open."""
    return [Seen(0.1 * place, 0.0, 0.0, 40, tokens) for place, tokens in enumerate(lengths)]


def as_replayed(seen: list[Seen], policy: str) -> list[Seen]:
    """What a client would see of an engine that does what replay says."""
    run = replayed(policy, 5.0, Pool(PROFILE), seen)
    rows = zip(seen, run.first_token_s.tolist(), run.end_s.tolist(), strict=True)
    return [Seen(one.sent_s, first_s, end_s, one.prompt_tokens, one.tokens) for one, first_s, end_s in rows]


def test_the_costs_are_found_again() -> None:
    """From iterations of known cost, and first tokens with an overhead, comes the profile that made them."""
    decodings = [
        Decoding(many, context, 0.048 + 0.0015 * many + 0.5e-6 * context)
        for many in (1, 2, 4, 8)
        for context in (40.0 * many, 900.0 * many)
    ]
    prefills = [Prefill(tokens, 0.058 + (0.001 + 0.5e-6) * tokens) for tokens in (40, 300, 900)]
    found = fit(decodings, prefills, PROFILE)
    assert found.profile.base_s == pytest.approx(0.048)
    assert found.profile.decode_sequence_s == pytest.approx(0.0015)
    assert found.profile.kv_token_s == pytest.approx(0.5e-6)
    assert found.profile.prefill_token_s == pytest.approx(0.001)
    assert found.overhead_s == pytest.approx(0.01)
    assert found.worst_error < 1e-6


def test_an_engine_that_does_what_replay_says_passes() -> None:
    """Same times: completion order the same, nothing off, every goal reached."""
    seen = as_replayed(crowd([5, 90, 40, 8, 60, 3] * 6), "sjf")
    found = check("sjf", seen, replayed("sjf", 5.0, Pool(PROFILE), seen))
    assert found.completion_tau == pytest.approx(1.0)
    assert found.p99_off == pytest.approx(0.0)
    assert all(goals([found]).values())


def test_an_engine_that_ignores_the_order_does_not() -> None:
    """First come, first served replayed as short-first: another order of completion."""
    seen = as_replayed(crowd([90, 40, 8, 60, 3, 30] * 6), "fcfs")
    found = check("sjf", seen, replayed("sjf", 5.0, Pool(PROFILE), seen))
    assert found.completion_tau < 0.95
    assert not goals([found])["completion tau >= 0.95"]


def test_only_policies_that_lie_apart_have_an_order() -> None:
    """Replay may not turn two policies round, unless a second run could have turned them as well."""
    lengths = [90, 40, 8, 60, 3, 30] * 6
    fcfs, short = (as_replayed(crowd(lengths), policy) for policy in ("fcfs", "sjf"))
    runs = {policy: replayed(policy, 5.0, Pool(PROFILE), fcfs) for policy in ("fcfs", "sjf")}
    right = [check("fcfs", fcfs, runs["fcfs"]), check("sjf", short, runs["sjf"])]
    assert disagree(right) == []
    wrong = [check("fcfs", short, runs["fcfs"]), check("sjf", fcfs, runs["sjf"])]
    assert disagree(wrong) == [("fcfs", "sjf")]
    assert disagree([right[0], check("as good", fcfs, runs["fcfs"])]) == []


def test_a_replay_serves_at_the_recorded_times() -> None:
    """Nobody begins before being sent, and places are those of the true lengths."""
    seen = crowd([90, 40, 8, 60, 3, 30] * 3)
    run = replayed("quantile", 5.0, Pool(PROFILE), seen)
    assert np.allclose(run.arrival_s, [one.sent_s for one in seen])
    assert (run.ttft_s > 0).all()


def test_an_engine_that_had_become_slower_is_replayed_slower() -> None:
    """The pace of the arm is found from its own tokens, and then nothing is off."""
    costs = ("base_s", "prefill_token_s", "decode_sequence_s", "kv_token_s")
    slower = msgspec.structs.replace(PROFILE, **{cost: 1.2 * getattr(PROFILE, cost) for cost in costs})
    sent = crowd([90, 40, 8, 60, 3, 30] * 6)
    ran = replayed("sjf", 5.0, Pool(slower), sent)
    rows = zip(sent, ran.first_token_s.tolist(), ran.end_s.tolist(), strict=True)
    seen = [Seen(one.sent_s, first_s, end_s, one.prompt_tokens, one.tokens) for one, first_s, end_s in rows]
    run, pace = at_its_pace("sjf", 5.0, Pool(PROFILE), seen)
    assert pace == pytest.approx(1.2, rel=0.02)
    assert check("sjf", seen, run, pace).p99_off < 0.05


def test_a_pace_that_moves_is_told() -> None:
    """Four seconds at half the pace are told as 100% slower; a steady engine as 0."""
    steady = [Seen(0.0, 0.0, 8.0, 40, 801, tuple(np.arange(801) / 100))]
    paused = [Seen(0.0, 0.0, 12.0, 40, 801, tuple(np.r_[np.arange(400) / 100, 4 + np.arange(401) / 50]))]
    assert moved([*steady, *steady]) == pytest.approx(0.0)
    assert moved([*paused, *paused, *paused]) == pytest.approx(1.0, rel=0.01)


async def test_what_is_sent_is_as_long_as_it_was_asked_to_be() -> None:
    """Answers have their fixed lengths, and times that follow one another; anything else is refused."""
    asks = [Ask(0.01 * place, HELLO, 3 + place) for place in range(4)]
    async with emulated([50]) as engine:
        seen = await send_all(engine.url, MODEL, asks, "salt")
        assert [one.tokens for one in seen] == [3, 4, 5, 6]
        assert all(0 <= one.sent_s < one.first_s < one.end_s for one in seen)
        assert all(one.chunks_s[0] == one.first_s and len(one.chunks_s) > 1 for one in seen)
        assert all(one.prompt_tokens == seen[0].prompt_tokens > 0 for one in seen)
        with pytest.raises(UnexpectedAnswerError, match="404"):
            await send_all(engine.url, "another-model", asks, "salt")
