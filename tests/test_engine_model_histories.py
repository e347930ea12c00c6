"""The engine model under random histories: nothing is lost, blocks are conserved, jumps and drivers change nothing."""

import heapq
import math
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ticks import COSTLY, FCFS, PRIORITY, drain, order, profile

from training.engine import EngineModel, Event, EventKind, SchedulingPolicy, Sequence

ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 400),  # milliseconds since the one before
        st.integers(1, 40),  # prompt
        st.integers(1, 40),  # output
        st.integers(-3, 3),  # priority
        st.integers(0, 2),  # family of prompts that share a prefix
        st.one_of(st.none(), st.integers(0, 900)),  # aborted after so many milliseconds
    ),
    min_size=1,
    max_size=25,
)


POLICIES = st.sampled_from([FCFS, PRIORITY])


def replay(model: EngineModel, arrivals: list[tuple[int, ...]]) -> list[Event]:
    """Submit and abort at the given times, then drain; families 1 and 2 share blocks, 0 shares nothing."""
    actions: list[tuple[float, int, int, Sequence]] = []
    now_ms = 0
    for number, (gap_ms, prompt, output, priority, family, abort_ms) in enumerate(arrivals):
        now_ms += gap_ms
        hashes = tuple(1_000 * family + block for block in range(prompt // 4)) if family else ()
        sequence = Sequence(number, prompt, output, priority, hashes)
        heapq.heappush(actions, (now_ms / 1e3, 0, number, sequence))
        if abort_ms is not None:
            heapq.heappush(actions, ((now_ms + abort_ms) / 1e3, 1, number, sequence))
    events: list[Event] = []
    while actions:
        at_s, is_abort, number, sequence = heapq.heappop(actions)
        events += model.advance(at_s)
        if is_abort:
            model.abort(number, at_s)
        else:
            model.submit(sequence, at_s)
    return events + drain(model) + model.advance(1e9)


@given(ARRIVALS, POLICIES)
def test_jumping_changes_nothing(arrivals: list[tuple[int, ...]], policy: SchedulingPolicy) -> None:
    """A jump over many iterations gives the same events, at the same instants, as one at a time."""
    jumping, stepping = EngineModel(COSTLY, policy), EngineModel(COSTLY, policy, max_jump=1)
    assert replay(jumping, arrivals) == replay(stepping, arrivals)
    assert jumping.counters == stepping.counters


@given(ARRIVALS, POLICIES)
def test_every_sequence_ends_exactly_once(arrivals: list[tuple[int, ...]], policy: SchedulingPolicy) -> None:
    """Finished or aborted, never both, never neither; then the engine is empty and all blocks are free."""
    model = EngineModel(COSTLY, policy)
    events = replay(model, arrivals)
    ends = Counter(e.sequence_id for e in events if e.kind in (EventKind.FINISHED, EventKind.ABORTED))
    assert ends == Counter(range(len(arrivals)))
    assert (model.num_running, model.num_waiting, model.kv_usage) == (0, 0, 0.0)
    aborted = {number for number, arrival in enumerate(arrivals) if arrival[5] is not None}
    assert set(order(events, EventKind.ABORTED)) <= aborted
    firsts = Counter(order(events, EventKind.FIRST_TOKEN))
    assert all(firsts[number] == 1 for number in order(events, EventKind.FINISHED))
    assert max(firsts.values(), default=1) == 1


@given(ARRIVALS, POLICIES)
def test_blocks_are_conserved(arrivals: list[tuple[int, ...]], policy: SchedulingPolicy) -> None:
    """After every iteration exactly the running sequences' tokens are in held blocks, and no more than fit."""
    model = EngineModel(msgspec.structs.replace(COSTLY, max_num_batched_tokens=1_000), policy)
    prompts = {number: arrival[1] for number, arrival in enumerate(arrivals)}
    for number, arrival in enumerate(arrivals):
        model.submit(Sequence(number, arrival[1], arrival[2], arrival[3]), 0.0)
    emitted: Counter[int] = Counter()
    running: set[int] = set()
    while model.next_event_s() is not None:
        iteration = model.step()
        emitted.update(iteration.emitted)
        running = set(iteration.emitted) - {
            e.sequence_id for e in iteration.events if e.kind is EventKind.FINISHED
        }
        # The newest token's keys and values are computed in the next iteration.
        held = sum(math.ceil((prompts[number] + emitted[number] - 1) / 4) for number in running)
        assert model.kv_usage * COSTLY.num_blocks == pytest.approx(held)
        assert len(running) == model.num_running <= COSTLY.max_num_seqs
    assert emitted == {number: arrival[2] for number, arrival in enumerate(arrivals)}


@given(ARRIVALS, POLICIES)
def test_asking_for_the_next_event_changes_no_later_one(
    arrivals: list[tuple[int, ...]], policy: SchedulingPolicy
) -> None:
    """`next_event_s` names an instant at which `advance` makes progress: a driver's loop cannot hang."""
    model = EngineModel(COSTLY, policy)
    for number, arrival in enumerate(arrivals):
        model.submit(Sequence(number, *arrival[1:4]), 1e6)  # a float is coarser than a picosecond here
    last_s = 0.0
    while (at_s := model.next_event_s()) is not None:
        assert at_s > last_s
        iterations = model.counters.iterations
        model.advance(at_s)
        assert model.counters.iterations > iterations
        last_s = at_s


@given(ARRIVALS)
def test_with_one_slot_priority_serves_the_best_waiter_each_time(arrivals: list[tuple[int, ...]]) -> None:
    """Whoever starts is the best of those that wait: by priority, then arrival, then id."""
    model = EngineModel(profile(max_num_seqs=1), PRIORITY)
    for number, arrival in enumerate(arrivals):
        model.submit(Sequence(number, arrival[1], arrival[2], arrival[3]), 0.0)
    expected = sorted(range(len(arrivals)), key=lambda number: (arrivals[number][3], number))
    assert order(drain(model), EventKind.FIRST_TOKEN) == expected


@given(ARRIVALS)
def test_fcfs_starts_in_the_order_of_arrival(arrivals: list[tuple[int, ...]]) -> None:
    """First tokens come in arrival order while no sequence is preempted, whatever the priorities."""
    model = EngineModel(msgspec.structs.replace(COSTLY, num_blocks=10_000), FCFS)
    kept = [(*arrival[:5], None) for arrival in arrivals]
    assert order(replay(model, kept), EventKind.FIRST_TOKEN) == list(range(len(arrivals)))
