"""The crowd that tunes and judges in `headway retrain`."""

from msgspec.structs import replace

from predictor.prediction import Prediction
from predictor.records import Outcome, TrafficRecord
from training.profiles import profile_named
from training.retrain.crowd import Crowd


def test_a_large_engine_gets_a_queue_too() -> None:
    """However few requests are asked for: where nobody waits no ranker gains anything, and none would be published."""
    records = [
        TrafficRecord(
            f"r{number}", number, "chat", Outcome.COMPLETED, prompt_tokens=20, output_tokens=20 + number
        )
        for number in range(40)
    ]
    engine = replace(profile_named("h100-8b"), max_num_seqs=600, max_num_batched_tokens=8192)
    predicted = [Prediction(number / 40, 20.0 + number, 10.0, 100.0) for number in range(40)]
    crowd = Crowd(records, engine, 100, 0)
    assert crowd.scene(predicted, "somebody").fcfs_figures.wait_s.p99 > 0.1
