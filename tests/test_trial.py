"""What a child process is told to load cannot hurt its parent."""

import gzip
import hashlib
import shutil
from pathlib import Path

import msgspec
import pytest

from predictor.artifact import METADATA
from predictor.errors import TrialError, TrialUnfinishedError
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from predictor.trial import try_artifact


def with_booster(directory: Path, text: bytes) -> Path:
    """A copy of the default artifact with another booster and the right hash of it."""
    shutil.copytree(DEFAULT_ARTIFACT, directory)
    packed = gzip.compress(text)
    (directory / "booster-0.txt.gz").write_bytes(packed)
    metadata = msgspec.json.decode((directory / METADATA).read_bytes())
    metadata["sha256"]["booster-0.txt.gz"] = hashlib.sha256(packed).hexdigest()
    (directory / METADATA).write_bytes(msgspec.json.encode(metadata))
    return directory


def test_a_good_artifact_passes() -> None:
    """The wheel's own artifact loads in a child."""
    try_artifact(DEFAULT_ARTIFACT)


def test_what_lies_in_the_working_directory_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An artifact passes also where serving was started beside a package of somebody's that is called `predictor`."""
    (tmp_path / "predictor").mkdir()
    (tmp_path / "predictor" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    try_artifact(DEFAULT_ARTIFACT)


def test_a_model_that_would_kill_the_process_kills_only_its_trial(tmp_path: Path) -> None:
    """A damaged model whose hash is right is refused with one line, and we are still here to say so."""
    text = gzip.decompress((DEFAULT_ARTIFACT / "booster-0.txt.gz").read_bytes())
    damaged = text.replace(b"left_child=", b"left_child=99999 ", 1)
    with pytest.raises(TrialError) as caught:
        try_artifact(with_booster(tmp_path / "bad", damaged))
    assert "\n" not in str(caught.value)


def test_what_is_no_artifact_is_refused_with_its_reason(tmp_path: Path) -> None:
    """The child's reason is the error's."""
    with pytest.raises(TrialError, match=r"cannot read metadata\.json"):
        try_artifact(tmp_path)
    shutil.copytree(DEFAULT_ARTIFACT, tmp_path / "half")
    (tmp_path / "half" / "text_head.npz").unlink()
    with pytest.raises(TrialError, match=r"cannot read text_head\.npz"):
        try_artifact(tmp_path / "half")


def test_a_trial_that_hangs_ends(tmp_path: Path) -> None:
    """Beyond its patience the child is killed and the artifact refused, for now."""
    with pytest.raises(TrialUnfinishedError, match=r"longer than 0\.001 s"):
        try_artifact(DEFAULT_ARTIFACT, patience_s=0.001)
