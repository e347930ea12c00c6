"""An artifact is hostile until proved: hashes first, no pickle, and whatever it holds, one clear error."""

import json
import os
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np
import pytest
from rankers import (
    BOOSTER,
    CALIBRATION,
    HEAD,
    SELFTEST,
    asked,
    change_metadata,
    copied,
    edit,
    with_arrays,
)

import predictor.artifact
import predictor.head_file
from predictor.artifact import METADATA, load_artifact, read_metadata, save_artifact
from predictor.errors import ArtifactError, HashMismatchError, SchemaMismatchError
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker

FILES = (HEAD, BOOSTER, CALIBRATION, SELFTEST)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A good artifact to damage."""
    return copied(tmp_path / "artifact")


def test_the_shipped_artifact_loads_and_ranks() -> None:
    """A first start has a ranker: the wheel's artifact passes all checks and tells an essay from a yes or no."""
    ranker = LightGBMRanker.load()
    short = ranker.predict(asked("Is iron a metal? Answer yes or no."))
    long = ranker.predict(asked("Write a long and detailed essay on the history of iron."))
    assert 0 <= short.quantile < long.quantile <= 1
    assert 0 <= short.tokens < long.tokens
    assert (DEFAULT_ARTIFACT / "MODEL_CARD.md").read_text().strip()


@pytest.mark.parametrize("name", FILES)
def test_hashes_are_checked_before_any_parser_sees_a_byte(
    directory: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flipped byte in any file: refused by name, and no parser has run, of that file or another."""

    def parsed(*_: object) -> NoReturn:
        raise AssertionError("a parser ran before every hash was checked")

    data = bytearray((directory / name).read_bytes())
    data[len(data) // 2] ^= 1
    (directory / name).write_bytes(data)
    monkeypatch.setattr(predictor.artifact, "head_from_bytes", parsed)
    monkeypatch.setattr(predictor.artifact.Booster, "from_bytes", parsed)
    monkeypatch.setattr(predictor.artifact, "SelfTest", parsed)
    with pytest.raises(HashMismatchError, match=name.replace(".", r"\.")):
        load_artifact(directory)


@pytest.mark.parametrize("name", FILES)
def test_a_listed_file_must_be_there_and_a_needed_one_listed(directory: Path, name: str) -> None:
    """Neither a missing file nor one that nobody vouches for is passed over."""
    change_metadata(directory, sha256=lambda known: {k: v for k, v in known.items() if k != name})
    with pytest.raises(ArtifactError, match=f"has no '{name}'"):
        load_artifact(directory)
    change_metadata(directory, sha256=lambda known: {**known, name: "0" * 64})
    (directory / name).unlink()
    with pytest.raises(HashMismatchError, match="No such file"):
        load_artifact(directory)


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\0b", "a" * 5000, "./selftest.json"],
)
def test_no_name_in_the_metadata_leads_out_of_the_directory(directory: Path, name: str) -> None:
    """A listed name that is not a plain file's is refused, whatever lies there."""
    (directory.parent / "outside").write_bytes(b"secret")
    change_metadata(directory, sha256=lambda known: {**known, name: "0" * 64})
    with pytest.raises(ArtifactError) as caught:
        load_artifact(directory)
    assert "SHA-256" not in str(caught.value)


def test_what_is_no_file_is_never_read(directory: Path) -> None:
    """A device that never ends or a pipe that nobody writes to does not hold the loader up."""
    (directory / SELFTEST).unlink()
    (directory / SELFTEST).symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match="is not a file"):
        load_artifact(directory)
    (directory / METADATA).unlink()
    os.mkfifo(directory / METADATA)
    with pytest.raises(ArtifactError, match="is not a file"):
        load_artifact(directory)


def test_another_schema_is_refused_with_both_hashes(directory: Path) -> None:
    """The error names the artifact's schema, this version's, and what to do."""
    ours = read_metadata(directory).schema_id
    change_metadata(directory, schema_id="0123456789abcdef")
    with pytest.raises(SchemaMismatchError, match="train a new artifact") as caught:
        load_artifact(directory)
    assert (caught.value.artifact_schema, caught.value.code_schema) == ("0123456789abcdef", ours)
    assert "0123456789abcdef" in str(caught.value)
    assert ours in str(caught.value)


def test_a_head_with_other_columns_is_another_schema(directory: Path) -> None:
    """The hash covers the text head's columns too: one that was renamed is refused, not read in its place."""
    with np.load(directory / HEAD) as arrays:
        names = arrays["names"]
    names[-1] = "text.0.other"
    with pytest.raises(SchemaMismatchError):
        load_artifact(with_arrays(directory, names=names))


def test_another_format_is_refused(directory: Path) -> None:
    """An artifact of a later format is not half understood."""
    with pytest.raises(ArtifactError, match="format 99; this version reads format 1"):
        load_artifact(change_metadata(directory, format_version=99))


@pytest.mark.parametrize("name", ["a\r\nset-cookie: b", "", "é", "a b", "n" * 129])
def test_a_name_that_no_header_can_carry_is_refused(directory: Path, name: str) -> None:
    """`x-headway-artifact` carries the name on every answer: one that cannot would fail them all."""
    with pytest.raises(ArtifactError, match="its name"):
        load_artifact(change_metadata(directory, name=name))


def test_a_self_test_that_fails_is_refused(directory: Path) -> None:
    """Files that fit together by hash but not by number do not serve."""
    score = json.loads((directory / SELFTEST).read_bytes())["score"]
    edit(directory, SELFTEST, lambda data: msgspec.json.encode({**json.loads(data), "score": score + 0.01}))
    with pytest.raises(ArtifactError, match="self-test row scores"):
        load_artifact(directory)
    edit(directory, SELFTEST, lambda data: msgspec.json.encode({**json.loads(data), "row": []}))
    with pytest.raises(ArtifactError, match="self-test row has 0 values"):
        load_artifact(directory)


def test_what_is_saved_loads_as_it_was(directory: Path, tmp_path: Path) -> None:
    """Writing an artifact's files anew, others beside them, gives the same ranker under other hashes."""
    metadata = read_metadata(directory)
    files = {name: (directory / name).read_bytes() for name in metadata.sha256}
    save_artifact(tmp_path / "new", files | {"NOTES.md": b"hello"}, metadata)
    again = LightGBMRanker.load(tmp_path / "new")
    assert again.predict(asked()) == LightGBMRanker.load(directory).predict(asked())
    (tmp_path / "new" / "NOTES.md").write_bytes(b"other")
    with pytest.raises(HashMismatchError):
        load_artifact(tmp_path / "new")


def test_saving_replaces_an_artifact_and_nothing_else(directory: Path, tmp_path: Path) -> None:
    """A directory with other things in it is left as it is; of an old artifact no file stays."""
    metadata = read_metadata(directory)
    files = {name: (directory / name).read_bytes() for name in metadata.sha256}
    (directory / "stale").write_bytes(b"")
    save_artifact(directory, files, metadata)
    assert {path.name for path in directory.iterdir()} == {*files, METADATA}
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with pytest.raises(ArtifactError, match="not an artifact"):
        save_artifact(precious, files, metadata)
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "home"]


def test_a_write_that_fails_leaves_the_old_artifact_serving(directory: Path, tmp_path: Path) -> None:
    """Nobody ever finds half an artifact, and no rubbish stays beside it."""
    metadata = read_metadata(directory)
    with pytest.raises(OSError, match="too long"):
        save_artifact(directory, {"n" * 300: b""}, metadata)
    assert load_artifact(directory).metadata == metadata
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
