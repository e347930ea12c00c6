"""The replay's virtual time: the scheduler and the engine model together lose nobody and keep the bound."""

from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.scheduling.policy import Fcfs, Policy, Quantile
from training.engine import EngineModel, EventKind, Sequence
from training.profiles import EngineProfile
from training.replay.predictions import oracle
from training.replay.scene import ORACLE, POLICIES, Knobs, Scene
from training.replay.simulate import Jobs, Pool, Run, scheduler, simulate

SMALL = EngineProfile(
    name="small",
    base_s=0.011,
    prefill_token_s=0.0007,
    decode_sequence_s=0.0003,
    kv_token_s=0.000013,
    block_size=4,
    num_blocks=24,
    max_num_seqs=3,
    max_num_batched_tokens=16,
    max_model_len=1_000,
)
# No KV pressure: requests wait in the proxy alone.
ROOMY = msgspec.structs.replace(SMALL, num_blocks=10_000)
# Fits into 24 blocks of 4 even alone with its whole answer.
SIZE = st.tuples(st.integers(1, 30), st.integers(1, 40))


@st.composite
def jobs(draw: st.DrawFn) -> Jobs:
    """A few requests with whole-millisecond arrivals, many of them at once."""
    sizes = draw(st.lists(SIZE, min_size=4, max_size=40))
    gaps = draw(
        st.lists(st.sampled_from([0, 0, 1_000, 11_000, 500_000]), min_size=len(sizes), max_size=len(sizes))
    )
    return Jobs([size[0] for size in sizes], [size[1] for size in sizes], np.cumsum(gaps).tolist())


def play(pool: Pool, crowd: Jobs, policy: Policy, lane_share: float = 0.0) -> Run:
    """One run with true lengths."""
    known = oracle(np.array(crowd.output_tokens, dtype=np.float64)).predictions()
    return simulate(pool, crowd, known, scheduler(policy, pool, lane_share))


def alone(profile: EngineProfile, crowd: Jobs) -> dict[int, tuple[float, float]]:
    """First token and end of each request on the engine model without any proxy."""
    engine = EngineModel(profile)
    events = []
    for number, at_us in enumerate(crowd.at_us):
        engine.submit(Sequence(number, crowd.prompt_tokens[number], crowd.output_tokens[number]), at_us / 1e6)
    while (at_s := engine.next_event_s()) is not None:
        events += engine.advance(at_s)
    first = {event.sequence_id: event.at_s for event in events if event.kind is EventKind.FIRST_TOKEN}
    return {e.sequence_id: (first[e.sequence_id], e.at_s) for e in events if e.kind is EventKind.FINISHED}


@given(jobs())
def test_fcfs_is_the_engine_without_a_proxy(crowd: Jobs) -> None:
    """Holding back what exceeds the slots changes no time of any request under FCFS, KV pressure or not."""
    run = play(Pool(SMALL), crowd, Fcfs())
    expected = alone(SMALL, crowd)
    found = list(zip(run.first_token_s.tolist(), run.end_s.tolist(), strict=True))
    assert found == [expected[number] for number in range(len(crowd))]


@given(jobs(), st.sampled_from(POLICIES), st.booleans(), st.booleans(), st.integers(1, 3), st.integers(0, 5))
def test_every_request_ends_exactly_once(
    crowd: Jobs, name: str, hybrid: bool, known: bool, replicas: int, clients: int
) -> None:
    """Under every policy, mode and number of engines, open or closed loop, each is sent once and ends once."""
    if clients:
        crowd = msgspec.structs.replace(crowd, at_us=[], clients=clients)
    lengths = np.array(crowd.output_tokens, dtype=np.float64)
    scene = Scene(Pool(SMALL, replicas), crowd, oracle(lengths[::-1].copy()), hybrid=hybrid)
    run = scene.run(ORACLE + name if known else name, Knobs(3.0, 0.25))
    assert Counter(run.order.tolist()) == Counter(range(len(crowd)))
    assert (run.arrival_s <= run.started_s + 1e-9).all()
    assert (run.started_s < run.first_token_s).all()
    assert (run.first_token_s <= run.end_s).all()


@given(jobs(), st.floats(0, 5), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(1, 2))
def test_nobody_is_overtaken_beyond_the_bound(
    crowd: Jobs, bound_s: float, lane: float, replicas: int
) -> None:
    """With `quantile` nobody is sent after a request that arrived more than D later."""
    run = play(Pool(SMALL, replicas, by_key=True), crowd, Quantile(round(bound_s * 1e6)), lane)
    arrival_s = run.arrival_s[run.order]
    assert (np.maximum.accumulate(arrival_s) - arrival_s <= bound_s + 1e-6).all()


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 60)), min_size=12, max_size=60))
def test_shortest_first_with_true_lengths_beats_fcfs_on_a_burst(sizes: list[tuple[int, int]]) -> None:
    """With all there at once and slots the bottleneck, true shortest first has no worse a mean TTFT (by 5%)."""
    crowd = Jobs([size[0] for size in sizes], [size[1] for size in sizes], [0] * len(sizes))
    known = oracle(np.array(crowd.output_tokens, dtype=np.float64))
    scene = Scene(Pool(ROOMY), crowd, known)
    best = scene.figures("oracle-sjf", Knobs(0.0))
    assert best.ttft_s.mean <= 1.05 * scene.fcfs_figures.ttft_s.mean + SMALL.base_s


def test_a_closed_loop_sends_the_next_when_one_has_ended() -> None:
    """With two clients there are never more than two requests in flight, and each follows an end at once."""
    crowd = Jobs([4] * 10, [5] * 10, [], clients=2)
    run = play(Pool(ROOMY), crowd, Fcfs())
    for arrival_s in run.arrival_s:
        in_flight = ((run.arrival_s <= arrival_s) & (run.end_s > arrival_s)).sum()
        assert in_flight <= 2
    assert run.arrival_s[2:] == pytest.approx(np.sort(run.end_s)[:8], abs=1e-6)
