"""Publishing: whole or not at all, also when the publisher is killed; and the way back."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from logged_traffic import artifact_called
from msgspec.structs import replace

from predictor.artifact import load_artifact
from predictor.errors import PredictorError
from predictor.registry import (
    RegistryError,
    Role,
    artifact_directory,
    journal_path,
    models_directory,
    pointer_path,
    read_pointer,
    write_pointer,
)
from training.registry import store
from training.registry.journal import Decision, Outcome, read_decisions, write_decision
from training.registry.store import KEEP, adopt, end_shadow, prune, publish, roll_back, stored

PUBLISHER = """
import sys
from pathlib import Path
from training.registry.journal import Decision, Outcome
from training.registry.store import adopt, publish
import training.registry.store as store
from predictor.artifact import read_metadata
from predictor.registry import Role, read_pointer
store.try_artifact = read_metadata  # its own tests try; here time must go into publishing
state = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for directory in map(Path, sys.argv[2:]):
        decision = Decision(action="test", outcome=Outcome.PUBLISHED, reason="", artifact=adopt(state, directory))
        publish(state, decision, expected=read_pointer(state, Role.CHAMPION))
"""


def decided(artifact: str, outcome: Outcome = Outcome.PUBLISHED) -> Decision:
    """A decision to publish."""
    return Decision(action="test", outcome=outcome, reason="a test", artifact=artifact)


def test_an_adopted_artifact_is_whole_and_goes_by_its_id(tmp_path: Path) -> None:
    """Adopting twice is adopting once; what is not loadable is not taken in."""
    source = artifact_called("one", tmp_path)
    artifact_id = adopt(tmp_path, source)
    assert adopt(tmp_path, source) == artifact_id
    assert stored(tmp_path) == [artifact_id]
    assert load_artifact(artifact_directory(tmp_path, artifact_id)).metadata.name == "one"
    (source / "calibration.json").write_text("{}")
    with pytest.raises(PredictorError, match=r"calibration\.json"):
        adopt(tmp_path, source)
    assert [path.name for path in models_directory(tmp_path).iterdir()] == [artifact_id]


def test_a_damaged_artifact_is_replaced_by_the_whole_one(tmp_path: Path) -> None:
    """What lies under the id but does not load, after a disk's fault, does not stand in the way of adopting it."""
    source = artifact_called("one", tmp_path)
    home = artifact_directory(tmp_path, adopt(tmp_path, source))
    (home / "metadata.json").unlink()
    adopt(tmp_path, source)
    assert load_artifact(home).metadata.name == "one"


def test_a_publisher_that_is_killed_leaves_a_whole_champion(tmp_path: Path) -> None:
    """SIGKILL at twelve moments of endless publishing: the pointer always names an artifact that loads."""
    sources = [
        str(artifact_called(name, tmp_path))
        for name in ("one", "two", "three", "four", "five", "six", "seven")
    ]
    state = tmp_path / "state"
    for attempt in range(12):
        command = [sys.executable, "-c", PUBLISHER, str(state), *sources]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.02 + 0.013 * attempt)
        # However slow the disk is, the last one gets so far.
        while attempt == 11 and read_pointer(state, Role.CHAMPION) is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        champion = read_pointer(state, Role.CHAMPION)
        if champion is not None:
            load_artifact(artifact_directory(state, champion))
    assert read_pointer(state, Role.CHAMPION) is not None
    assert {one.outcome for one in read_decisions(state)} == {Outcome.PUBLISHED}


def test_a_refusal_points_at_nobody(tmp_path: Path) -> None:
    """Refusals are written down; the champion stays. A shadow gets a pointer of its own."""
    one = adopt(tmp_path, artifact_called("one", tmp_path))
    publish(tmp_path, decided(one, Outcome.REFUSED), expected=None)
    assert read_pointer(tmp_path, Role.CHAMPION) is None
    publish(tmp_path, decided(one, Outcome.SHADOWED), expected=None)
    assert (read_pointer(tmp_path, Role.CHAMPION), read_pointer(tmp_path, Role.SHADOW)) == (None, one)
    assert [entry.outcome for entry in read_decisions(tmp_path)] == [Outcome.REFUSED, Outcome.SHADOWED]


def test_a_champion_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """The gate compared with somebody who does not serve any more: the decision becomes a refusal, after which the
    same log may be worked through again."""
    one, two = (adopt(tmp_path, artifact_called(name, tmp_path)) for name in ("one", "two"))
    publish(tmp_path, decided(one), expected=None)
    late = publish(tmp_path, replace(decided(two), newest="1:r"), expected=None)
    assert (late.outcome, late.newest) == (Outcome.REFUSED, "")
    assert "meanwhile; run it again" in late.reason
    assert read_pointer(tmp_path, Role.CHAMPION) == one


def test_rolling_back_goes_step_by_step_to_the_wheel(tmp_path: Path) -> None:
    """Two back, then nothing is left to go back to; a target may be named."""
    one, two = (adopt(tmp_path, artifact_called(name, tmp_path)) for name in ("one", "two"))
    publish(tmp_path, decided(one), expected=None)
    publish(tmp_path, decided(two), expected=one)
    assert roll_back(tmp_path).artifact == one
    assert read_pointer(tmp_path, Role.CHAMPION) == one
    assert roll_back(tmp_path, two).artifact == two
    assert roll_back(tmp_path, "default").artifact is None
    assert read_pointer(tmp_path, Role.CHAMPION) is None
    with pytest.raises(PredictorError, match="nothing to roll back"):
        roll_back(tmp_path)
    with pytest.raises(PredictorError, match="no artifact"):
        roll_back(tmp_path, "0123456789abcdef")


def test_a_shadow_ends(tmp_path: Path) -> None:
    """Whoever becomes the champion is a shadow no longer; a shadow may be ended, and then there is none to end."""
    one, two = (adopt(tmp_path, artifact_called(name, tmp_path)) for name in ("one", "two"))
    publish(tmp_path, decided(one, Outcome.SHADOWED), expected=None)
    publish(tmp_path, decided(one), expected=None)
    assert (read_pointer(tmp_path, Role.CHAMPION), read_pointer(tmp_path, Role.SHADOW)) == (one, None)
    publish(tmp_path, decided(two, Outcome.SHADOWED), expected=None)
    publish(tmp_path, decided(two), expected=one)
    publish(tmp_path, decided(one, Outcome.SHADOWED), expected=None)
    assert end_shadow(tmp_path).artifact == one
    assert (read_pointer(tmp_path, Role.CHAMPION), read_pointer(tmp_path, Role.SHADOW)) == (two, None)
    assert roll_back(tmp_path).artifact == one
    with pytest.raises(PredictorError, match="no shadow"):
        end_shadow(tmp_path)


def test_old_artifacts_go_and_needed_ones_stay(tmp_path: Path) -> None:
    """The newest are kept, and champion, shadow and the way back whatever their age."""
    ids = []
    for number in range(6):
        ids.append(adopt(tmp_path, artifact_called(f"a{number}", tmp_path)))
        os.utime(artifact_directory(tmp_path, ids[-1]) / "metadata.json", (number, number))
    publish(tmp_path, decided(ids[0]), expected=None)
    publish(tmp_path, decided(ids[1]), expected=ids[0])
    assert prune(tmp_path, keep=2) == [ids[3], ids[2]]
    assert set(stored(tmp_path)) == {ids[0], ids[1], ids[4], ids[5]}


def test_refusals_leave_no_more_than_the_latest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However many are refused, a bounded number of artifacts stays: who serves, the way back, the latest ones; and
    nothing of a trainer that was killed a day ago."""
    one, two = (adopt(tmp_path, artifact_called(name, tmp_path)) for name in ("one", "two"))
    publish(tmp_path, decided(one), expected=None)
    publish(tmp_path, decided(two), expected=one)
    _old(artifact_directory(tmp_path, one), artifact_directory(tmp_path, two))
    aside = models_directory(tmp_path)
    left, fetched, pointer, at_work = (
        aside / name for name in (".staged-left", ".fetched-left", ".champion-left", ".staged-at-work")
    )
    for folder in (left, fetched, at_work):
        folder.mkdir()
    pointer.touch()
    _old(left, fetched, pointer)
    refused = []
    for number in range(KEEP + 3):
        refused.append(adopt(tmp_path, artifact_called(f"refused{number}", tmp_path)))
        publish(tmp_path, decided(refused[-1], Outcome.REFUSED), expected=two)
    assert set(stored(tmp_path)) == {one, two, *refused[-KEEP:]}
    assert [one.name for one in aside.glob(".*")] == [at_work.name]
    assert roll_back(tmp_path).artifact == one
    assert not caplog.records


def nothing_changes(state: Path, serves: str, other: str, error: type[Exception]) -> None:
    """Neither the other's publication nor a rollback goes through: an error, and pointer and journal are as before."""
    before = journal_path(state).read_bytes()
    for change in (lambda: publish(state, decided(other), expected=serves), lambda: roll_back(state)):
        with pytest.raises(error, match="No space left"):
            change()
        assert read_pointer(state, Role.CHAMPION) == serves
        assert journal_path(state).read_bytes() == before


def test_a_full_journal_changes_nobody_who_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses the decision, of a publication or a rollback: an OSError, and pointer, journal and way back
    are as before; old artifacts go all the same. When the disk has room again both go through."""
    one, two = (adopt(tmp_path, artifact_called(name, tmp_path)) for name in ("one", "two"))
    publish(tmp_path, decided(one), expected=None)
    old = [adopt(tmp_path, artifact_called(f"old{number}", tmp_path)) for number in range(KEEP)]
    _old(*(artifact_directory(tmp_path, one) for one in old[:2]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        nothing_changes(tmp_path, one, two, OSError)
    assert not {old[0], old[1]} & set(stored(tmp_path))
    publish(tmp_path, decided(two), expected=one)
    assert roll_back(tmp_path).artifact == one


@pytest.mark.parametrize("already_there", [False, True])
def test_a_pointer_that_is_refused_is_no_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, already_there: bool
) -> None:
    """The disk takes the decision and not the pointer, or its directory's fsync fails when the new pointer is there:
    who served still serves, and the journal says nothing else."""
    one, two = (adopt(tmp_path, artifact_called(name, tmp_path)) for name in ("one", "two"))
    publish(tmp_path, decided(one), expected=None)

    def refuse(state: Path, role: Role, artifact_id: str | None) -> None:
        if already_there:
            write_pointer(state, role, artifact_id)
        raise RegistryError("cannot write: No space left")

    monkeypatch.setattr(store, "write_pointer", refuse)
    nothing_changes(tmp_path, one, two, RegistryError)


def test_a_kill_between_line_and_pointer_leaves_the_way_back_true(tmp_path: Path) -> None:
    """The line of whom it was to be stays, who served still serves, and whoever comes next goes back to that one."""
    one, two, three = (adopt(tmp_path, artifact_called(name, tmp_path)) for name in ("one", "two", "three"))
    publish(tmp_path, decided(one), expected=None)
    write_decision(
        tmp_path, Decision(action="test", outcome=Outcome.PUBLISHED, reason="", artifact=two, replaced=one)
    )
    assert publish(tmp_path, decided(three), expected=one).replaced == one
    assert roll_back(tmp_path).artifact == one


def test_what_cannot_be_cleared_away_does_not_undo_a_decision(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The shadow's pointer is damaged, so nobody knows what is needed: published all the same, and a warning."""
    one = adopt(tmp_path, artifact_called("one", tmp_path))
    pointer_path(tmp_path, Role.SHADOW).write_text("nonsense")
    assert publish(tmp_path, decided(one), expected=None).outcome is Outcome.PUBLISHED
    assert read_pointer(tmp_path, Role.CHAMPION) == one
    assert "old artifacts stay" in caplog.text


def test_what_has_been_deleted_meanwhile_does_not_serve(tmp_path: Path) -> None:
    """An artifact that went while the gate weighed it: an error, and no pointer to nothing."""
    with pytest.raises(PredictorError, match="no artifact"):
        publish(tmp_path, decided("0123456789abcdef"), expected=None)
    assert read_pointer(tmp_path, Role.CHAMPION) is None
    assert read_decisions(tmp_path) == []


def _full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _old(*folders: Path) -> None:
    for folder in folders:
        for path in (folder, *folder.glob("*")):
            os.utime(path, (1, 1))
