"""`headway models`: list, publish with and without the gate, roll back."""

import json
from pathlib import Path

import pytest
from logged_traffic import artifact_called, id_called, write_log
from published import add_artifact

from headway import main
from predictor.registry import Role, artifact_directory, read_pointer
from training.registry.journal import Outcome, read_decisions


def test_by_hand_and_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Publish a directory, list it, roll it back; each is in the journal."""
    source = artifact_called("mine", tmp_path)
    at = ["--state", str(tmp_path)]
    assert main(["models", "publish", str(source), "--force", *at]) == 0
    champion = read_pointer(tmp_path, Role.CHAMPION)
    assert champion is not None
    assert champion in capsys.readouterr().out
    assert main(["models", "list", "--json", *at]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["champion"] == champion
    assert [(one["id"], one["roles"], one["name"]) for one in listed["models"]] == [
        (champion, ["champion"], "mine")
    ]
    assert main(["models", "rollback", *at]) == 0
    assert read_pointer(tmp_path, Role.CHAMPION) is None
    assert [one.outcome for one in read_decisions(tmp_path)] == [Outcome.PUBLISHED, Outcome.ROLLED_BACK]
    assert main(["models", "list", *at]) == 0
    shown = capsys.readouterr().out
    assert "The ranker that comes with Headway serves" in shown
    assert "rolled back" in shown


def test_the_gate_asks_the_traffic_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An artifact that ranks as the default does is refused; the shadow needs no gate."""
    write_log(tmp_path, 300)
    source = str(artifact_called("alike", tmp_path))
    at = ["--state", str(tmp_path)]
    assert main(["models", "publish", source, *at]) == 1
    assert "not shown to rank better" in capsys.readouterr().out
    assert read_pointer(tmp_path, Role.CHAMPION) is None
    assert main(["models", "publish", source, "--shadow", *at]) == 0
    assert read_pointer(tmp_path, Role.SHADOW) is not None
    assert main(["models", "rollback", "default", "--shadow", *at]) == 2
    assert main(["models", "rollback", "--shadow", *at]) == 0
    assert read_pointer(tmp_path, Role.SHADOW) is None
    assert "shadow ended" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "nonsense"], "is no artifact id"),
        (["publish", "0123456789abcdef"], "cannot read metadata.json"),
        (["rollback"], "nothing to roll back"),
        (["rollback", "0123456789abcdef"], "no artifact 0123456789abcdef"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Exit status 1 and what is wrong."""
    assert main(["models", *arguments, "--state", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_publishing_the_champion_again_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so and writes nothing."""
    source = artifact_called("mine", tmp_path)
    assert main(["models", "publish", str(source), "--force", "--state", str(tmp_path)]) == 0
    for way in ("--force", "--shadow"):
        assert main(["models", "publish", str(source), way, "--state", str(tmp_path)]) == 1
        assert "is the champion already" in capsys.readouterr().err
    assert len(read_decisions(tmp_path)) == 1
    assert id_called("other", tmp_path) != read_pointer(tmp_path, Role.CHAMPION)


@pytest.mark.parametrize("verb", ["publish --force", "publish --shadow", "publish", "rollback"])
def test_what_was_damaged_in_the_registry_is_given_no_role(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """A half copied state directory: nobody is told that an artifact serves which no proxy can take."""
    damaged = add_artifact(tmp_path, "damaged")
    (artifact_directory(tmp_path, damaged) / "text_head.npz").write_bytes(b"half")
    assert main(["models", *verb.split(), damaged, "--state", str(tmp_path)]) == 1
    assert "text_head.npz has SHA-256" in capsys.readouterr().err
    assert (read_pointer(tmp_path, Role.CHAMPION), read_pointer(tmp_path, Role.SHADOW)) == (None, None)
    assert not read_decisions(tmp_path)
