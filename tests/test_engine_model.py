"""The engine model, case by case: vLLM's scheduling rules, in exact time."""

import msgspec
import pytest
from ticks import COSTLY, FCFS, PRIORITY, TICK, drain, order, profile, times

from training.engine import EngineModel, EventKind, QueueFullError, Sequence


def test_a_lone_answer_takes_one_iteration_per_token() -> None:
    """The prefill's iteration brings the first token, each later one another."""
    model = EngineModel(TICK)
    model.submit(Sequence(1, prompt_tokens=5, output_tokens=4), 10.0)
    events = drain(model)
    assert times(events, EventKind.FIRST_TOKEN) == {1: 11.0}
    assert times(events, EventKind.FINISHED) == {1: 14.0}
    assert model.counters.generation_tokens == 4


def test_iteration_time_is_the_sum_of_its_four_costs() -> None:
    """base + prompt tokens + decoding sequences + context attended to, to the picosecond."""
    model = EngineModel(msgspec.structs.replace(COSTLY, max_num_batched_tokens=100))
    model.submit(Sequence(1, prompt_tokens=10, output_tokens=3), 0.0)
    events = drain(model)
    prefill_s = 0.011 + 10 * 0.0007 + 10 * 0.000013
    decode_s = 2 * (0.011 + 0.0003) + (10 + 11) * 0.000013
    assert times(events, EventKind.FIRST_TOKEN)[1] == pytest.approx(prefill_s, abs=1e-12)
    assert times(events, EventKind.FINISHED)[1] == pytest.approx(prefill_s + decode_s, abs=1e-12)


def test_a_long_prompt_is_prefilled_in_chunks_beside_the_decodes() -> None:
    """The token budget is shared: what the decoding sequences leave goes to the prompt."""
    model = EngineModel(profile(max_num_batched_tokens=10))
    model.submit(Sequence(1, prompt_tokens=10, output_tokens=50), 0.0)
    model.advance(1.0)
    model.submit(Sequence(2, prompt_tokens=20, output_tokens=1), 1.0)
    assert times(drain(model), EventKind.FIRST_TOKEN) == {2: 4.0}  # 9 + 9 + 2 tokens


def test_what_arrives_during_an_iteration_waits_for_the_next() -> None:
    """Composition is fixed while an iteration runs; at its very start a newcomer still counts."""
    model = EngineModel(TICK)
    model.submit(Sequence(1, 1, 10), 0.0)
    model.advance(2.0)
    model.submit(Sequence(2, 1, 1), 2.0)
    model.advance(2.5)
    model.submit(Sequence(3, 1, 1), 3.5)
    assert times(drain(model), EventKind.FIRST_TOKEN) == {2: 3.0, 3: 5.0}


def test_fcfs_ignores_priorities() -> None:
    """Under `fcfs` the order is that of arrival, silently."""
    model = EngineModel(profile(max_num_seqs=1), FCFS)
    for sequence_id, priority in ((1, 5), (2, 3), (3, 1)):
        model.submit(Sequence(sequence_id, 1, 2, priority), 0.0)
    assert order(drain(model), EventKind.FINISHED) == [1, 2, 3]


def test_priority_order_is_priority_then_arrival_then_id() -> None:
    """Lower first; ties go to the earlier arrival, then to the lower id."""
    model = EngineModel(profile(max_num_seqs=1), PRIORITY)
    model.submit(Sequence(99, 1, 5, 0), 0.0)
    model.advance(0.5)
    for sequence_id, priority, at_s in (
        (5, 7, 0.5),
        (4, 7, 0.6),
        (3, 7, 0.6),
        (2, -(2**63), 0.7),
        (1, 9, 0.7),
    ):
        model.submit(Sequence(sequence_id, 1, 1, priority), at_s)
    assert order(drain(model), EventKind.FINISHED) == [99, 2, 5, 3, 4, 1]


def test_a_better_newcomer_does_not_displace_a_running_sequence() -> None:
    """Priority orders the waiting ones; who runs, runs."""
    model = EngineModel(profile(max_num_seqs=1), PRIORITY)
    model.submit(Sequence(1, 1, 10, priority=100), 0.0)
    model.advance(1.0)
    model.submit(Sequence(2, 1, 1, priority=-100), 1.0)
    events = drain(model)
    assert times(events, EventKind.FINISHED) == {1: 10.0, 2: 11.0}
    assert model.counters.preemptions == 0


def test_a_head_that_does_not_fit_holds_up_those_behind_it() -> None:
    """Head-of-line blocking, as in vLLM: nobody slips past a waiter that lacks blocks."""
    model = EngineModel(profile(num_blocks=10, max_num_seqs=3), PRIORITY)
    model.submit(Sequence(1, 24, 10), 0.0)  # 6 to 9 blocks
    model.advance(0.5)
    model.submit(Sequence(2, 20, 1, priority=1), 0.5)  # 5 blocks: must wait
    model.submit(Sequence(3, 4, 1, priority=2), 0.5)  # would fit
    assert order(drain(model), EventKind.FINISHED) == [1, 2, 3]


def test_under_priority_the_worst_running_sequence_is_preempted() -> None:
    """Victim under KV pressure: the highest (priority, arrival), not the latest."""
    model = EngineModel(profile(num_blocks=6, max_num_seqs=2), PRIORITY)
    model.submit(Sequence(1, 8, 12, priority=9), 0.0)
    model.submit(Sequence(2, 8, 12, priority=1), 0.0)
    events = drain(model)
    assert order(events, EventKind.PREEMPTED) == [1]
    assert order(events, EventKind.FINISHED) == [2, 1]


def test_under_fcfs_the_latest_running_sequence_is_preempted() -> None:
    """Victim under KV pressure without priorities: the last one admitted."""
    model = EngineModel(profile(num_blocks=6, max_num_seqs=2), FCFS)
    model.submit(Sequence(1, 8, 12, priority=9), 0.0)
    model.submit(Sequence(2, 8, 12, priority=1), 0.0)
    events = drain(model)
    assert order(events, EventKind.PREEMPTED) == [2]
    assert order(events, EventKind.FINISHED) == [1, 2]


def test_a_preempted_sequence_goes_on_where_it_was_and_pays_for_what_was_evicted() -> None:
    """No token is emitted twice; recomputed are the tokens whose blocks another sequence has taken since."""
    model = EngineModel(profile(num_blocks=6, max_num_seqs=2), FCFS)
    model.submit(Sequence(1, 8, 12), 0.0)
    model.submit(Sequence(2, 8, 12), 0.0)
    events = drain(model)
    [end] = [event for event in events if event.kind is EventKind.FINISHED and event.sequence_id == 2]
    assert end.preemptions == 1
    assert order(events, EventKind.FIRST_TOKEN) == [1, 2]
    assert model.counters.generation_tokens == 24
    # 2 was preempted with 12 tokens in 3 blocks; 1 then grew by 2 blocks, to 5, which left the first block of 2.
    assert model.counters.recomputed_tokens == 12 - 4


def test_a_cached_prefix_is_not_computed_again() -> None:
    """Full blocks with the same hashes are shared, at most the prompt less one token."""
    model = EngineModel(TICK)
    model.submit(Sequence(1, 12, 1, block_hashes=(7, 8, 9)), 0.0)
    first = drain(model)
    model.submit(Sequence(2, 12, 1, block_hashes=(7, 8, 9)), 5.0)
    model.submit(Sequence(3, 13, 1, block_hashes=(7, 8, 9)), 5.0)
    second = drain(model)
    cached = {event.sequence_id: event.cached_tokens for event in first + second}
    assert cached == {1: 0, 2: 8, 3: 12}
    assert (model.counters.prompt_tokens, model.counters.prompt_tokens_cached) == (37, 20)


def test_a_prefix_is_shared_as_soon_as_its_computation_is_scheduled() -> None:
    """Two requests of one burst already share."""
    model = EngineModel(TICK)
    for sequence_id in (1, 2):
        model.submit(Sequence(sequence_id, 9, 1, block_hashes=(7, 8)), 0.0)
    assert {event.sequence_id: event.cached_tokens for event in drain(model)} == {1: 0, 2: 8}


def test_an_abort_frees_the_slot_after_the_iteration_under_way() -> None:
    """Waiting or running, an aborted sequence is gone at once for its client, and the next one moves up."""
    model = EngineModel(profile(max_num_seqs=1))
    for sequence_id in (1, 2, 3):
        model.submit(Sequence(sequence_id, 1, 100), 0.0)
    model.advance(5.0)
    assert model.abort(2, 5.2)
    assert model.abort(1, 5.5)
    assert not model.abort(1, 5.6)
    events = drain(model)
    assert times(events, EventKind.ABORTED) == {2: 5.2, 1: 6.0}
    assert times(events, EventKind.FIRST_TOKEN) == {3: 7.0}
    assert not model.abort(3, 1_000.0)


def test_admission_limit_counts_waiting_and_running() -> None:
    """`max_num_queued_reqs` refuses the newcomer, and takes the next one once a place is free."""
    model = EngineModel(profile(max_num_seqs=1), max_num_queued_reqs=2)
    model.submit(Sequence(1, 1, 3), 0.0)
    model.submit(Sequence(2, 1, 3), 0.0)
    with pytest.raises(QueueFullError):
        model.submit(Sequence(3, 1, 3), 1.0)
    assert model.counters.refused == 1
    model.submit(Sequence(4, 1, 3), 3.0)
    assert order(drain(model), EventKind.FINISHED) == [1, 2, 4]


@pytest.mark.parametrize(
    "bad", [Sequence(1, 0, 1), Sequence(1, 1, 0), Sequence(1, 4_000, 1), Sequence(7, 1, 1)]
)
def test_a_sequence_that_cannot_run_is_refused(bad: Sequence) -> None:
    """Empty prompts and answers, ones larger than the cache, and ids in use are ValueErrors; nothing breaks."""
    model = EngineModel(TICK)
    model.submit(Sequence(7, 1, 2), 0.0)
    with pytest.raises(ValueError, match=r"sequence \d"):
        model.submit(bad, 0.0)
    assert order(drain(model), EventKind.FINISHED) == [7]


def test_queue_time_is_the_wait_for_the_first_slot() -> None:
    """`queue_s` ends with the iteration that admits, not with the first token."""
    model = EngineModel(profile(max_num_seqs=1))
    model.submit(Sequence(1, 1, 4), 0.0)
    model.submit(Sequence(2, 1, 4), 0.5)
    assert {event.sequence_id: event.queue_s for event in drain(model)} == {1: 0.0, 2: 3.5}
