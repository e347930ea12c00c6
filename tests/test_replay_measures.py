"""The figures of a replay mean what their names say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.engine import EngineModel, Sequence
from training.profiles import profile_named
from training.replay.measures import alone_s, length_quartiles, longest_overtaking_s, measure
from training.replay.simulate import Jobs, Run

PROFILE = profile_named("cpu-smollm2")


def run_of(arrival_s: list[float], dispatched_s: list[float], order: list[int]) -> Run:
    """A run whose requests take one second to the first token and one more to the last."""
    sent = np.array(dispatched_s)
    return Run(np.array(arrival_s), sent, sent + 1, sent + 2, np.array(order), 0, 0)


@given(st.integers(1, 3_000), st.integers(1, 900))
def test_time_alone_is_what_the_engine_model_takes(prompt: int, output: int) -> None:
    """The closed form equals a run of the model with nobody else there, chunked prefill included."""
    engine = EngineModel(PROFILE)
    engine.submit(Sequence(1, prompt, output), 0.0)
    end_s = 0.0
    while (at_s := engine.next_event_s()) is not None:
        end_s = at_s
        engine.advance(at_s)
    assert alone_s(PROFILE, np.array([prompt]), np.array([output]))[0] == pytest.approx(end_s, rel=1e-9)


def test_extra_delay_and_overtaking_are_of_the_worst_request() -> None:
    """The second goes before the first: the first is 3 s later than under FCFS, passed by one 3 s younger."""
    jobs = Jobs([1] * 4, [2] * 4, [0, 2_000_000, 3_000_000, 4_000_000])
    arrival_s = [0.0, 2.0, 3.0, 4.0]
    fcfs = run_of(arrival_s, [2.0, 3.0, 4.0, 5.0], [0, 1, 2, 3])
    run = run_of(arrival_s, [5.0, 2.0, 4.0, 5.0], [1, 2, 0, 3])
    figures = measure("any", run, fcfs, jobs, PROFILE)
    assert figures.extra_delay_s == 3.0
    assert figures.overtaken_s == 3.0
    assert longest_overtaking_s(fcfs) == 0.0
    assert figures.gain_s == pytest.approx((14 - 16) / 4)
    assert figures.tokens_per_s == pytest.approx(8 / 7)


def test_no_quartile_is_empty_even_where_all_lengths_are_equal() -> None:
    """Ties are split by number."""
    assert length_quartiles(np.array([7] * 8)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert length_quartiles(np.array([9, 1, 5, 3])).tolist() == [3, 0, 2, 1]
