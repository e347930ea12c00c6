"""The loop's report: passes averaged, shares of the oracle's gain, a picture; halves that share no prompt."""

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

from predictor.features.extractor import FIXED_NAMES
from predictor.records import Outcome, TrafficRecord
from training.compare.client import Timing
from training.compare.report import ArmReport
from training.loop.arguments import all_but_one, parse
from training.loop.intervals import Between, intervals
from training.loop.phases import ORDER
from training.loop.picture import draw
from training.loop.report import LoopReport, as_json, asked_share, ranked_as, summarize
from training.loop.saturation import Full, compared
from training.loop.workload import choose
from training.prompts import load_calls
from training.registry.journal import Decision
from training.registry.journal import Outcome as Verdict


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
BETWEEN = dict.fromkeys(("fcfs", "retrained", "oracle-quantile"), Between((4.0, 5.0), (1.5, 1.9), (0.7, 0.8)))
LOGGED = [
    TrafficRecord(
        f"r{n}", n, "chat", Outcome.COMPLETED, quantile=n / 10, predicted_tokens=10.0 * n, output_tokens=9 * n + 1,
    )
    for n in range(10)
]  # fmt: skip


def answers(ttft_s: list[float], *, failed: int | None = None) -> list[Timing]:
    """A pass with these times, one of them for a request that failed."""
    return [
        Timing(f"p{n}", float(n), one, one + 1.0, 10, "stop", ok=n != failed) for n, one in enumerate(ttft_s)
    ]


def whole() -> LoopReport:
    """A report."""
    return LoopReport(
        engine="emulated", slots=8, max_tokens=128, capped_share=0.1, load=1.3, calls=0.6, capacity_per_s=2.0,
        learned_from=300, requests=100, max_overtake_s=20.0, order=ORDER, summaries=summarize(PASSES, BETWEEN),
        passes=PASSES, pace=(190.0, 185.0, 180.0, 188.0, 191.0), oracle_tau_b=0.9,
        ranked=(ranked_as("wheel", LOGGED), ranked_as("retrained", LOGGED)), asked_share=0.4,
        saturation=compared([Full(100.0, 16.0), Full(99.0, 15.9)] * 4), retrain=None, seconds=1.0,
    )  # fmt: skip


def test_passes_of_an_arm_are_averaged_and_shared_out() -> None:
    """(11 - 6.5) / (11 - 5) of the oracle's gain; throughput beside FCFS's; every pass is shown."""
    arms = {one.arm: one for one in summarize(PASSES, BETWEEN)}
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


@pytest.mark.parametrize("calls", [0.0, 0.5, 1.0])
def test_what_is_learned_from_is_not_measured_on(calls: float) -> None:
    """No prompt of the training half is in the measuring half; each comes once before any comes twice."""
    learn, measure = choose("train", 400, 1, calls), choose("measure", 400, 1, calls)
    assert not {one.id for one in learn} & {one.id for one in measure}
    some = choose("train", 200, 1, calls)
    assert len({one.id for one in some}) == 200


@pytest.mark.parametrize("calls", [0.0, 1.0])
def test_nothing_comes_twice_before_all_have_come_once(calls: float) -> None:
    """However many are asked for, of one sort each comes as often as any other, or once more."""
    often = Counter(one.id for one in choose("train", 2_000, 1, calls)).values()
    assert max(often) - min(often) <= 1


def test_calls_are_their_share_and_come_among_the_others() -> None:
    """Six in ten as it was asked for, in either half of the time alike; another seed gives another order."""
    chosen = choose("measure", 300, 1, 0.6)
    called = [one.kind in {call.kind for call in load_calls()} for one in chosen]
    assert sum(called) == 180
    assert 70 < sum(called[:150]) < 110
    assert choose("measure", 300, 1, 0.6) == chosen != choose("measure", 300, 2, 0.6)


def test_each_arm_that_is_compared_runs_there_and_back() -> None:
    """ABBA: FCFS, ours and the oracle come twice, mirrored, so that a drifting engine favours none."""
    twice = [name for name in ORDER if ORDER.count(name) == 2]
    assert twice == twice[::-1]
    assert set(twice) == {"fcfs", "retrained", "oracle-quantile"}


def test_the_report_and_its_picture_are_written(tmp_path: Path) -> None:
    """JSON that holds the sentence too, and a PNG."""
    report = whole()
    assert "75% (70% to 80%) of what true lengths give" in as_json(report)["sentence"]
    assert msgspec.json.decode(msgspec.json.encode(as_json(report)))["order"] == list(ORDER)
    draw(report, tmp_path / "loop.png")
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")


def test_intervals_compare_answer_by_answer() -> None:
    """An arm that halves every single TTFT is twice as good for certain, however far the requests lie apart."""
    fcfs = [float(2 * n + 2) for n in range(40)]
    ours = intervals(
        {
            "fcfs": [answers(fcfs)],
            "half": [answers([one / 2 for one in fcfs])],
            "oracle": [answers([one / 4 for one in fcfs])],
        },
        "oracle",
        seed=1,
    )["half"]
    assert ours.times_better == pytest.approx((2.0, 2.0))
    assert ours.of_oracle == pytest.approx((2 / 3, 2 / 3))
    low, high = ours.gain_s
    assert low < sum(fcfs) / 80 < high


def test_a_few_lucky_answers_are_no_gain() -> None:
    """Where two of thirty answers make the whole difference the interval holds no gain too; the seed decides it."""
    runs = {
        "fcfs": [answers([5.0] * 30)],
        "luck": [answers([1.0, 1.0] + [5.0] * 28)],
        "oracle": [answers([1.0] * 30)],
    }
    found = intervals(runs, "oracle", seed=1)
    assert found["luck"].gain_s[0] == 0.0 < found["luck"].gain_s[1]
    assert found == intervals(runs, "oracle", seed=1)


def test_who_failed_somewhere_is_compared_nowhere() -> None:
    """A failed answer's time is no time; without any gain of the oracle's there is no share of it."""
    runs = {
        "fcfs": [answers([9.0, 2.0, 2.0])],
        "ours": [answers([0.0, 1.0, 1.0], failed=0)],
        "oracle": [answers([9.0, 2.0, 2.0])],
    }
    found = intervals(runs, "oracle", seed=1)["ours"]
    assert found.gain_s == pytest.approx((1.0, 1.0))
    assert found.of_oracle is None


def test_who_was_asked_about_is_counted() -> None:
    """Of the logged requests, those with what the model would say; a log without features has none."""
    asked = np.zeros(len(FIXED_NAMES), dtype="<f4")
    silent = np.full(len(FIXED_NAMES), np.nan, dtype="<f4")
    records = [
        msgspec.structs.replace(LOGGED[0], features=one.tobytes()) for one in (asked, silent, silent, asked)
    ]
    assert asked_share(records) == 0.5
    assert asked_share(LOGGED) == 0.0


def test_an_engine_that_changed_its_pace_is_not_hidden() -> None:
    """Where a pass ran a tenth slower than another the report says so, and names the arms it was unfair to."""
    assert whole().unsteady == ""
    names = ("fcfs", "retrained", "oracle-quantile", "retrained", "fcfs")
    disturbed = msgspec.structs.replace(whole(), order=names, pace=(190.0, 130.0, 180.0, 188.0, 191.0))
    assert "47% faster" in disturbed.unsteady
    assert "130" in disturbed.unsteady
    assert disturbed.unsteady.endswith("another pace: retrained (-17%), oracle-quantile (-6%).")
    assert as_json(disturbed)["unsteady"] == disturbed.unsteady
    evenly = msgspec.structs.replace(whole(), order=names, pace=(170.0, 180.0, 190.0, 200.0, 210.0))
    assert evenly.unsteady.endswith("each arm had FCFS's pace to within 5%.")


@pytest.mark.parametrize("outcome", list(Verdict))
def test_a_ranker_that_the_gate_refused_is_not_passed_off_as_published(outcome: Verdict) -> None:
    """Whatever the gate said but `published` is in the sentence and in the JSON, with its reason."""
    decision = Decision(action="retrain", outcome=outcome, reason="tau-b is not above the default's")
    report = as_json(msgspec.structs.replace(whole(), retrain=decision))
    refused = outcome is not Verdict.PUBLISHED
    assert (f"did not publish this ranker ({outcome}: tau-b is not" in report["sentence"]) is refused
    assert (report["gate"] in report["sentence"] and report["gate"] != "") is refused
    assert as_json(whole())["gate"] == ""


def test_an_oracle_that_may_have_gained_nothing_shares_nothing() -> None:
    """Where chance alone may have made the oracle's gain, a share of it would be a number without meaning."""
    fcfs = [float(n % 7) + 5 for n in range(40)]
    mixed = [one * (0.5 if n % 2 else 1.6) for n, one in enumerate(fcfs)]
    found = intervals(
        {"fcfs": [answers(fcfs)], "ours": [answers(fcfs)], "oracle": [answers(mixed)]}, "oracle", seed=1
    )
    assert found["ours"].of_oracle is None
    assert found["oracle"].of_oracle is None


def test_the_engine_leaves_a_core_to_proxy_and_client() -> None:
    """On a GPU it would not compute where they do; the only core of a machine is shared."""
    assert all_but_one({3, 0, 1, 2}) == "0,1,2"
    assert all_but_one({5, 4}) == "4"
    assert all_but_one({7}) == "7"


@pytest.mark.parametrize(
    "words",
    ["--calls 2", "--calls -0.1", "--calls nan", "--pairs 1", "--learn 0", "--load 0", "--load inf", "--slots x",
     "--requests -5", "--minutes nan", "--max-overtake -1", "--max-tokens 1e3"],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started: status 2, with the option and what it takes."""
    option, value = words.split()
    with pytest.raises(SystemExit) as end:
        parse([f"{option}={value}"])
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert option in last and repr(value) in last and "give a" in last
