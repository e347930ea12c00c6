"""The loop once, from a traffic log to a published artifact; and everything that can stand in its way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from logged_traffic import write_log

from headway import main
from predictor.artifact import load_artifact
from predictor.registry import Role, artifact_directory, models_directory, read_pointer
from training.registry.journal import Outcome, locked, read_decisions
from training.retrain.cycle import LOCK

ROOT = Path(__file__).parents[1]
QUICK = ("--replay-requests", "150", "--engine-profile", "demo")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory after one retraining on traffic with something to learn."""
    state = tmp_path_factory.mktemp("learned")
    write_log(state, 400)
    assert main(["retrain", "--state", str(state), *QUICK]) == 0
    return state


def test_a_better_ranker_is_published_with_its_figures(learned: Path) -> None:
    """The pointer names an artifact that loads, and the journal says why it serves and whom it beat."""
    champion = read_pointer(learned, Role.CHAMPION)
    assert champion is not None
    artifact = load_artifact(artifact_directory(learned, champion))
    (decision,) = read_decisions(learned)
    assert (decision.outcome, decision.artifact) == (Outcome.PUBLISHED, champion)
    assert (decision.trained_on, decision.held_out) == (320, 80)
    assert decision.figures is not None
    assert decision.figures.tau_b > 0.6
    assert [(rival.name, rival.better) for rival in decision.rivals] == [("default", True)]
    assert decision.order == artifact.metadata.order
    assert artifact.metadata.order is not None
    assert artifact.metadata.order.work is not None


def test_it_is_evaluated_on_what_it_was_not_trained_on(
    learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`headway evaluate` on the very log that it was retrained on judges by the newer fifth alone."""
    champion = read_pointer(learned, Role.CHAMPION)
    assert champion is not None
    artifact = str(artifact_directory(learned, champion))
    assert (
        main(["evaluate", "--artifact", artifact, "--on", f"sqlite:///{learned}/traffic.db", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["rows"] == 80


def test_the_same_log_is_not_worked_through_twice(learned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing new: it says so, and nothing changes."""
    assert main(["retrain", "--state", str(learned), *QUICK]) == 0
    assert "Nothing new" in capsys.readouterr().out
    assert len(read_decisions(learned)) == 1
    assert main(["retrain", "--state", str(learned), "--json", *QUICK]) == 0
    assert json.loads(capsys.readouterr().out) == {"decision": None}


def test_an_equal_ranker_is_refused_and_kept(learned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Forced to train on the same rows again: no better than the champion, which goes on serving."""
    champion = read_pointer(learned, Role.CHAMPION)
    assert main(["retrain", "--state", str(learned), "--force", "--json", *QUICK]) == 0
    decision = json.loads(capsys.readouterr().out)["decision"]
    assert decision["outcome"] == "refused"
    assert [rival["name"] for rival in decision["rivals"]] == ["champion", "default"]
    assert read_pointer(learned, Role.CHAMPION) == champion
    assert artifact_directory(learned, decision["artifact"]).is_dir()


def test_the_second_of_two_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While one retrains, another one does not begin."""
    write_log(tmp_path, 250)
    with locked(tmp_path, LOCK, wait=False):
        assert main(["retrain", "--state", str(tmp_path), *QUICK]) == 1
    assert "another one is at work" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["--from", "sqlite:////nowhere.db"], "no such file", 1),
        (["--from", "lengths.jsonl"], "lengths.jsonl: is no traffic log; give sqlite:///FILE", 1),
        (["--rows", "0"], "--rows must be at least 1", 2),
        (["--max-extra-delay", "-1"], "--max-extra-delay must be", 2),
        (["--replay-requests", "2000000000"], "--replay-requests must be from 100 to", 2),
        (["--nice", "-1"], "--nice must be from 0 to 19", 2),
        (["--nice", "99999999999999999999"], "--nice must be from 0 to 19", 2),
        (["--seed", "-1"], "--seed must be from 0", 2),
        (["--engine-profile", "abacus"], "no engine profile 'abacus'", 2),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str, status: int
) -> None:
    """One line that says what is wrong, and no journal entry."""
    write_log(tmp_path, 250)
    assert main(["retrain", "--state", str(tmp_path), *arguments]) == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert read_decisions(tmp_path) == []


def test_a_full_disk_costs_the_candidate_and_nothing_else(tmp_path: Path) -> None:
    """No file may grow beyond 100 kB: one line, no pointer, nothing left lying about, the log is whole."""
    write_log(tmp_path, 250)
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from headway import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "retrain", "--state", str(tmp_path), *QUICK],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_pointer(tmp_path, Role.CHAMPION) is None
    assert [path.name for path in models_directory(tmp_path).iterdir()] == [LOCK]


def test_what_serve_is_told_by_file_tells_the_trainer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The state directory comes from serve's TOML file; a wrong key there is said; a flag beats the file."""
    config = tmp_path / "headway.toml"
    config.write_text(f'state = "{tmp_path}/there"\n')
    assert main(["retrain", "--config", str(config)]) == 1
    assert f"{tmp_path}/there/traffic.db: no such file" in capsys.readouterr().err
    assert main(["retrain", "--config", str(config), "--state", f"{tmp_path}/here"]) == 1
    assert f"{tmp_path}/here/traffic.db: no such file" in capsys.readouterr().err
    config.write_text("stat = 1\n")
    assert main(["retrain", "--config", str(config)]) == 2
    assert "stat" in capsys.readouterr().err
