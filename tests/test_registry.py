"""The registry's paths and pointers: whole or not at all, and nothing but an artifact id is taken from one."""

import hashlib
from pathlib import Path

import pytest

from predictor.artifact import METADATA
from predictor.errors import ArtifactError
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from predictor.registry import (
    RegistryError,
    Role,
    artifact_directory,
    artifact_id_of,
    models_directory,
    pointer_path,
    read_pointer,
    write_pointer,
)

ONE = "0123456789abcdef"
OTHER = "fedcba9876543210"


def test_no_pointer_means_nothing_published(tmp_path: Path) -> None:
    """A fresh state directory points at nothing, and asking makes no directory."""
    assert read_pointer(tmp_path / "state", Role.CHAMPION) is None
    assert not (tmp_path / "state").exists()


def test_a_pointer_holds_what_was_written_last(tmp_path: Path) -> None:
    """Champion and shadow are apart; each gives back the last id, and None once it was taken away."""
    write_pointer(tmp_path, Role.CHAMPION, ONE)
    write_pointer(tmp_path, Role.SHADOW, OTHER)
    assert read_pointer(tmp_path, Role.CHAMPION) == ONE
    write_pointer(tmp_path, Role.CHAMPION, OTHER)
    assert (tmp_path / "models" / "champion").read_text() == OTHER + "\n"
    write_pointer(tmp_path, Role.SHADOW, None)
    write_pointer(tmp_path, Role.SHADOW, None)
    assert read_pointer(tmp_path, Role.SHADOW) is None
    assert [path.name for path in models_directory(tmp_path).iterdir()] == ["champion"]


@pytest.mark.parametrize(
    "damage", [b"", b"\0" * 16, b"0123456789abcde", b"../../../../etc/p", b"\xff" * 16, b"0" * 100_000]
)
def test_a_damaged_pointer_is_one_clear_error(tmp_path: Path, damage: bytes) -> None:
    """Whatever is in the file, it is an id or an error that names the file and what to do."""
    models_directory(tmp_path).mkdir()
    pointer_path(tmp_path, Role.CHAMPION).write_bytes(damage)
    with pytest.raises(RegistryError, match=r"champion.*is no artifact id.*remove this file") as caught:
        read_pointer(tmp_path, Role.CHAMPION)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_pointer_that_cannot_be_read_or_written_is_an_error(tmp_path: Path) -> None:
    """A directory in its place is said; a failed write leaves nothing behind."""
    pointer_path(tmp_path, Role.CHAMPION).mkdir(parents=True)
    with pytest.raises(RegistryError, match="cannot read"):
        read_pointer(tmp_path, Role.CHAMPION)
    with pytest.raises(RegistryError, match="cannot write"):
        write_pointer(tmp_path, Role.CHAMPION, ONE)
    assert [path.name for path in models_directory(tmp_path).iterdir()] == ["champion"]


@pytest.mark.parametrize("name", ["", "..", "default", "0123456789ABCDEF", ONE + "/", ONE + "\n"])
def test_only_an_artifact_id_makes_a_path(tmp_path: Path, name: str) -> None:
    """Nothing but 16 hexadecimal digits becomes a directory or a pointer."""
    with pytest.raises(RegistryError):
        artifact_directory(tmp_path, name)
    with pytest.raises(RegistryError):
        write_pointer(tmp_path, Role.CHAMPION, name)
    assert artifact_directory(tmp_path, ONE) == tmp_path / "models" / ONE


def test_an_artifacts_id_names_its_content(tmp_path: Path) -> None:
    """The id is the beginning of the SHA-256 of metadata.json, which lists every other file's."""
    digest = hashlib.sha256((DEFAULT_ARTIFACT / METADATA).read_bytes()).hexdigest()
    assert artifact_id_of(DEFAULT_ARTIFACT) == digest[:16]
    with pytest.raises(ArtifactError, match="cannot read"):
        artifact_id_of(tmp_path)
