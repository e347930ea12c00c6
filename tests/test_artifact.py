"""An artifact is hostile until proved: hashes first, no pickle, and whatever it holds, one clear error."""

import gzip
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import lightgbm
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from rankers import BOOSTER, CALIBRATION, HEAD, SELFTEST, asked, change_metadata, copied, edit, rewrite

import predictor.artifact
import predictor.head_file
from predictor.artifact import METADATA, load_artifact, read_metadata, save_artifact
from predictor.errors import ArtifactError, HashMismatchError, SchemaMismatchError, TrialError
from predictor.features.extractor import FIXED_NAMES
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.trial import try_artifact

FILES = (HEAD, BOOSTER, CALIBRATION, SELFTEST)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A good artifact to damage."""
    return copied(tmp_path / "artifact")


def with_arrays(directory: Path, **changed: Any) -> Path:
    """The artifact with other arrays in its text head; None takes one out."""

    def change(data: bytes) -> bytes:
        with np.load(io.BytesIO(data)) as stored:
            arrays = {name: stored[name] for name in stored}
        kept = {name: array for name, array in (arrays | changed).items() if array is not None}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **kept)
        return buffer.getvalue()

    return edit(directory, HEAD, change)


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
    names[0] = "text.0.other"
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


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_nothing_is_unpickled(directory: Path, tmp_path: Path) -> None:
    """A pickle in the place of the head, or of one of its arrays, is refused and does not run."""
    sprung = tmp_path / "sprung"
    objects = np.array([Trap(sprung)], dtype=object)
    with pytest.raises(ArtifactError):
        load_artifact(with_arrays(directory, bias=objects))
    with pytest.raises(ArtifactError):
        load_artifact(rewrite(directory, HEAD, pickle.dumps(Trap(sprung))))
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("weights", np.full((1, 1), np.nan, dtype=np.float16)),
        ("idf", np.full(1 << 15, np.inf, dtype=np.float16)),
        ("bias", None),
        ("sizes", np.array(15)),
        ("sizes", np.array([40, 1])),
        ("sizes", np.array([15, 9])),
        ("bins", np.array([1 << 30])),
        ("names", np.array(["twice"] * 2)),
        ("kernel0_gamma", np.array(np.nan)),
        ("kernel0_gamma", np.ones(2)),
        ("kernel0_landmarks", np.array(1.0)),
        ("kernel0_inputs", np.array(["no.such.feature"])),
        ("kernel0_outputs", np.array([-1])),
    ],
)
def test_a_head_of_wrong_shapes_or_numbers_is_refused(directory: Path, array: str, value: Any) -> None:
    """Each array's shape, range and finiteness is checked, though every hash is right."""
    with pytest.raises(ArtifactError):
        load_artifact(with_arrays(directory, **{array: value}))


def test_weights_that_are_not_finite_are_refused(directory: Path) -> None:
    """One infinite weight of the right shape among thousands is found."""
    with np.load(directory / HEAD) as arrays:
        weights = arrays["weights"]
    weights[7, 1] = np.inf
    with pytest.raises(ArtifactError, match="not finite"):
        load_artifact(with_arrays(directory, weights=weights))


def test_a_few_bytes_do_not_become_gigabytes(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip bomb in the place of the head or of a model is refused before it fills the memory."""
    monkeypatch.setattr(predictor.artifact, "_MAX_FILE_BYTES", 4 << 20)
    monkeypatch.setattr(predictor.head_file, "_MAX_BYTES", 4 << 20)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("idf.npy", "w") as member:
        for _ in range(5):
            member.write(bytes(1 << 20))
    with pytest.raises(ArtifactError, match="unpacks to more than"):
        load_artifact(rewrite(directory, HEAD, bomb.getvalue()))
    shutil.rmtree(directory)
    rewrite(copied(directory), BOOSTER, gzip.compress(bytes(5 << 20)))
    with pytest.raises(ArtifactError, match="unpacks to more than"):
        load_artifact(directory)


@pytest.mark.parametrize(
    ("member", "values"),
    [
        ("tokens", {"x": [0, 1], "y": [-5, 2]}),
        ("p90_tokens", {"x": [0], "y": [1e200]}),
        ("p10_tokens", {"x": [1, 0], "y": [1, 2]}),
        ("tokens", {"x": [0, 1], "y": [2, 1]}),
        ("quantile", {"x": [], "y": []}),
        ("quantile", {"x": [0, 1], "y": [0]}),
    ],
)
def test_a_calibration_that_is_no_monotone_map_of_tokens_is_refused(
    directory: Path, member: str, values: dict[str, list[float]]
) -> None:
    """A falling map, or expected tokens that no answer can have, is found at load and not at each request."""
    edit(directory, CALIBRATION, lambda data: msgspec.json.encode({**json.loads(data), member: values}))
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_artifact(directory)


def test_a_model_with_several_scores_is_refused(directory: Path) -> None:
    """LightGBM would write its second score past the end of our one number."""
    rng = np.random.default_rng(0)
    width = len(load_artifact(directory).schema.names)
    data = lightgbm.Dataset(rng.normal(size=(60, width)), np.arange(60) % 3)
    parameters = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1}
    text = lightgbm.train(parameters, data, 2).model_to_string()
    edit(directory, BOOSTER, lambda _: text.encode())
    with pytest.raises(ArtifactError, match="3 classes"):
        load_artifact(directory)


@pytest.mark.parametrize(
    "members",
    [
        [],
        [{"objective": "x", "weight": 1, "center": 0, "scale": 1, "file": "none.txt.gz"}],
        [{"objective": "x", "weight": 1, "center": 0, "scale": 1, "feature": "none"}],
        [{"objective": "x", "weight": 1, "center": 0, "scale": 0, "feature": FIXED_NAMES[0]}],
        [{"objective": "x", "weight": 1, "center": 0, "scale": 1}],
    ],
)
def test_members_that_cannot_vote_are_refused(directory: Path, members: list[dict[str, Any]]) -> None:
    """No member, one without a file, of an unknown feature, without scale or without a voice."""
    with pytest.raises(ArtifactError):
        load_artifact(change_metadata(directory, members=members))


@pytest.mark.parametrize("name", [HEAD, CALIBRATION, SELFTEST, METADATA])
@profile(max_examples=15)
@given(data=st.data())
def test_corrupted_bytes_with_a_right_hash_are_refused_or_harmless(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bytes cut, overwritten or inserted and the hash recomputed: an artifact that loads, or ArtifactError."""
    directory = copied(tmp_path_factory.mktemp("fuzzed") / "artifact")
    original = (directory / name).read_bytes()
    place = data.draw(st.integers(0, len(original)))
    removed = data.draw(st.integers(0, 8) | st.integers(0, len(original)))
    damaged = original[:place] + data.draw(st.binary(max_size=8)) + original[place + removed :]
    if name == METADATA:
        (directory / name).write_bytes(damaged)
    else:
        rewrite(directory, name, damaged)
    try:
        load_artifact(directory)
    except ArtifactError as error:
        assert str(directory) in str(error)
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"left_child=", b"left_child=99999 "),
        (b"split_feature=", b"split_feature=99999 "),
        (b"leaf_value=", b"leaf_value=nan "),
        (b"num_leaves=15", b"num_leaves=15000"),
    ],
)
def test_a_damaged_model_whose_hash_is_right_ends_in_the_child(
    directory: Path, old: bytes, new: bytes
) -> None:
    """Such text can kill whoever parses it, so a child parses it first: refused in words, and we live on."""
    edit(directory, BOOSTER, lambda text: text.replace(old, new, 1))
    with pytest.raises(TrialError):
        try_artifact(directory)


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
