"""The loop's report: passes averaged, shares of the oracle's gain, a picture; halves that share no prompt."""

from pathlib import Path

import msgspec
import pytest

from predictor.records import Outcome, TrafficRecord
from training.compare.report import ArmReport
from training.loop.phases import ORDER, as_json, choose
from training.loop.picture import draw
from training.loop.report import LoopReport, ranked_as, summarize


def one_pass(arm: str, ttft_s: float, tokens_per_s: float = 100.0) -> ArmReport:
    """A pass with that mean TTFT."""
    return ArmReport(arm, 100, 0, ttft_s, ttft_s, 3 * ttft_s, 9.0, 9.0, 20.0, tokens_per_s, 0.1, 1.0)


PASSES = (
    one_pass("fcfs", 10.0),
    one_pass("retrained", 6.0, 98.0),
    one_pass("oracle-quantile", 5.0),
    one_pass("retrained", 7.0, 99.0),
    one_pass("fcfs", 12.0),
)
LOGGED = [
    TrafficRecord(
        f"r{n}", n, "chat", Outcome.COMPLETED, quantile=n / 10, predicted_tokens=10.0 * n, output_tokens=9 * n + 1,
    )
    for n in range(10)
]  # fmt: skip


def whole() -> LoopReport:
    """A report."""
    return LoopReport(
        engine="emulated", slots=8, max_tokens=128, capped_share=0.1, load=1.3, capacity_per_s=2.0, learned_from=300,
        requests=100, max_overtake_s=20.0, order=ORDER, summaries=summarize(PASSES), passes=PASSES,
        ranked=(ranked_as("wheel", LOGGED), ranked_as("retrained", LOGGED)), retrain=None, seconds=1.0,
    )  # fmt: skip


def test_passes_of_an_arm_are_averaged_and_shared_out() -> None:
    """(11 - 6.5) / (11 - 5) of the oracle's gain; throughput beside FCFS's; every pass is shown."""
    arms = {one.arm: one for one in summarize(PASSES)}
    ours = arms["retrained"]
    assert ours.passes_s == (6.0, 7.0)
    assert ours.of_oracle == pytest.approx(0.75)
    assert ours.times_better == pytest.approx(11 / 6.5)
    assert ours.throughput == pytest.approx(0.985)
    assert arms["fcfs"].gain_s == 0


def test_predictions_are_held_against_lengths() -> None:
    """tau-b of what the log says was predicted; the pairs are the picture's."""
    ranked = ranked_as("wheel", LOGGED)
    assert ranked.tau_b == pytest.approx(1.0)
    assert ranked.output_tokens[-1] == 82


def test_what_is_learned_from_is_not_measured_on() -> None:
    """No prompt of the training half is in the measuring half; each comes once before any comes twice."""
    learn, measure = choose("train", 400, 1), choose("measure", 400, 1)
    assert not {one.id for one in learn} & {one.id for one in measure}
    assert len({one.id for one in learn[:300]}) == 300


def test_each_arm_that_is_compared_runs_there_and_back() -> None:
    """ABBA: FCFS, ours and the oracle come twice, mirrored, so that a drifting engine favours none."""
    twice = [name for name in ORDER if ORDER.count(name) == 2]
    assert twice == twice[::-1]
    assert set(twice) == {"fcfs", "retrained", "oracle-quantile"}


def test_the_report_and_its_picture_are_written(tmp_path: Path) -> None:
    """JSON that holds the sentence too, and a PNG."""
    report = whole()
    assert "75% of what true lengths give" in as_json(report)["sentence"]
    assert msgspec.json.decode(msgspec.json.encode(as_json(report)))["order"] == list(ORDER)
    draw(report, tmp_path / "loop.png")
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")
