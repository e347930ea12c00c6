"""`headway replay` as its user meets it: a report, a document, one clear line."""

import json
from pathlib import Path

import numpy as np
import pytest
from logged_traffic import write_log

from headway import main


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """300 requests with lengths far apart."""
    rng = np.random.default_rng(2)
    rows = [
        f"{at_s:.3f},{rng.integers(5, 60)},{rng.integers(1, 9) if rng.random() < 0.6 else rng.integers(100, 400)}"
        for at_s in np.cumsum(rng.exponential(0.1, 300))
    ]
    path = tmp_path / "trace.csv"
    path.write_text("t_seconds,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    return str(path)


def replay(*arguments: str) -> int:
    """Run the command on the demo's engine with 200 requests, unless told otherwise."""
    return main(["replay", "--engine-profile", "demo", "--requests", "200", *arguments])


@pytest.mark.parametrize("arrivals", ["trace", "poisson", "gamma", "surge", "burst", "closed"])
def test_every_kind_of_arrivals_gives_a_document(
    trace: str, arrivals: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One JSON document on stdout with an outlook per load (a burst has only one) and an arm per policy."""
    arguments = ("--arrivals", arrivals, "--loads", "1.0,1.3", "--policies", "fcfs,quantile", "--json")
    assert replay("--on", trace, *arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["requests"] == 200
    assert len(report["outlooks"]) == (1 if arrivals == "burst" else 2)
    for outlook in report["outlooks"]:
        assert [arm["figures"]["policy"] for arm in outlook["arms"]] == ["fcfs", "quantile"]
        assert outlook["arms"][1]["figures"]["overtaken_s"] <= outlook["max_overtake_s"] + 1e-6


def test_the_same_seed_gives_the_same_report(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A replay is a function of its arguments."""
    found = []
    for seed in ("4", "4", "5"):
        assert replay("--on", trace, "--arrivals", "gamma", "--loads", "1", "--seed", seed, "--json") == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] != found[2]


def test_the_tables_name_every_policy_and_end_with_a_verdict(
    trace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed holds all that was asked for."""
    assert replay("--on", trace, "--loads", "1.2") == 0
    printed = capsys.readouterr().out
    for policy in ("fcfs", "sjf", "hrrn", "boost", "quantile", "oracle-sjf", "oracle-quantile"):
        assert policy in printed
    assert "headroom" in printed


def test_a_traffic_log_is_replayed_on_the_engine_that_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether there is anything to gain is asked of that engine; the verdict names it, and the load."""
    source = write_log(tmp_path, 300)
    words = [
        "replay",
        "--on",
        source,
        "--requests",
        "100",
        "--loads",
        "1.2",
        "--policies",
        "quantile",
        "--json",
    ]
    assert main(words) == 0
    seen = json.loads(capsys.readouterr().out)
    assert main([*words, "--engine-profile", "h100-8b"]) == 0
    h100 = json.loads(capsys.readouterr().out)
    assert "slots" in seen["engine_profile"]
    assert seen["capacity_per_s"] != h100["capacity_per_s"]
    for report in (seen, h100):
        (outlook,) = report["outlooks"]
        assert outlook["verdict"].startswith(f"1 x {report['engine_profile']}, trace, load 1.2. ")


def test_an_engine_that_nothing_tells_of_is_called_assumed(
    trace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trace has no pace; nobody shall take the verdict for one on his own engine."""
    words = ["replay", "--on", trace, "--requests", "100", "--loads", "1", "--policies", "quantile"]
    assert main(words) == 0
    assert "1 x h100-8b (assumed), trace, load 1." in capsys.readouterr().out.replace("\n", " ")


def test_tuning_writes_its_choice(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--tune prints the frontier, marks the choice, and writes both to --out."""
    out = tmp_path / "tune.json"
    limit = ("--max-extra-delay", "3", "--out", str(out))
    assert replay("--on", trace, "--arrivals", "gamma", "--loads", "1.2", "--tune", *limit) == 0
    assert "<- chosen" in capsys.readouterr().out
    tuned = json.loads(out.read_text())
    choice = (tuned["policy"], tuned["choice"])
    chosen = [point for point in tuned["frontier"] if (point["policy"], point["knobs"]) == choice]
    assert len(chosen) == 1
    assert chosen[0]["figures"]["extra_delay_s"] <= 3


def test_recorded_times_are_played_as_they_are(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`recorded` among the loads: the arrivals that were logged, at the load that they are to these engines."""
    assert replay("--on", trace, "--loads", "recorded,1.2", "--policies", "fcfs", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    loads = [one["load"] for one in report["outlooks"]]
    assert loads[1] == 1.2
    # 200 requests that came one in 0.1 s.
    assert loads[0] * report["capacity_per_s"] == pytest.approx(10, rel=0.3)


def test_tuning_tells_of_the_traffic_as_it_came(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """D is chosen for a load at which order matters; whether the recorded traffic has one is said beside it."""
    calm = ("--engine-profile", "demo", "--replicas", "8")
    assert replay("--on", trace, *calm, "--tune", "--json") == 0
    tuning = json.loads(capsys.readouterr().out)["tuning"]
    assert tuning["load"] == 1.1
    assert tuning["as_recorded"].startswith("As recorded: 8 x demo, trace, load 0.")
    assert "not needed here" in tuning["as_recorded"]
    assert replay("--on", trace, *calm, "--tune", "--arrivals", "poisson", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tuning"]["as_recorded"] is None


def test_text_is_ranked_by_the_default_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lengths file with prompts needs no logged predictions."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Write {n} words about trains.", "output_tokens": 1 + n % 50} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert replay("--on", str(path), "--loads", "1", "--policies", "quantile", "--json") == 0
    assert json.loads(capsys.readouterr().out)["predictions"].startswith("artifact ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--policies", "fcfs,lifo"], "unknown policy 'lifo'"),
        (["--policies", ","], "unknown policy"),
        (["--loads", "1.0,fast"], "not a list of numbers"),
        (["--loads", "-1"], "from 0.001 to 100"),
        (["--loads", "nan"], "from 0.001 to 100"),
        (["--loads", "1e-300"], "from 0.001 to 100"),
        (["--requests", "99999999999"], "--requests must be from 8 to"),
        (["--replicas", "99999999999"], "--replicas must be from 1 to"),
        (["--requests", "2"], "from 8 to"),
        (["--engine-profile", "abacus"], "choose from"),
        (["--lane-share", "1.5"], "--lane-share"),
        (["--max-overtake", "nan"], "--max-overtake"),
        (["--window", "0"], "--window"),
        (["--out", "x.json"], "--tune"),
        (["--arrivals", "poisson", "--loads", "recorded"], "goes with --arrivals trace"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(
    trace: str, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong is said on one line of stderr."""
    assert replay("--on", trace, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("headway replay: ")
    assert complaint in lines[0]


def test_what_cannot_be_read_is_one_line_and_exit_1(
    trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No such file, an unknown kind, no times for trace arrivals, nothing for an artifact to go by."""
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "x", "output_tokens": 3}\n')
    other = tmp_path / "other.txt"
    other.write_text("x")
    for arguments, complaint in (
        (["--on", str(tmp_path / "none.csv")], "no such file"),
        (["--on", str(other)], "unknown kind"),
        (["--on", str(few), "--arrivals", "trace"], "no arrival times"),
        (["--on", str(few), "--loads", "recorded"], "recorded arrival times"),
        (["--on", trace, "--artifact", "nowhere"], "leave out --artifact"),
    ):
        assert replay(*arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert complaint in captured.err
        assert len(captured.err.strip().splitlines()) == 1


def test_a_choice_that_cannot_be_written_is_shown_all_the_same(
    trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes of tuning are not lost with the file; without a terminal stderr holds the reason and no bar."""
    there = tmp_path / "missing" / "choice.json"
    assert replay("--on", trace, "--loads", "1.2", "--tune", "--json", "--out", str(there)) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["tuning"]
    assert said.err == f"headway replay: cannot write {there}: No such file or directory\n"
