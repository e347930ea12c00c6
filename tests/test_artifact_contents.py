"""Whatever an artifact's files hold though every hash is right: refused with one clear error, nothing is run."""

import gzip
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from rankers import (
    BOOSTER,
    CALIBRATION,
    HEAD,
    SELFTEST,
    change_metadata,
    copied,
    edit,
    rewrite,
    with_arrays,
)

import predictor.artifact
import predictor.head_file
from predictor.artifact import METADATA, load_artifact
from predictor.errors import ArtifactError, TrialError
from predictor.features.extractor import FIXED_NAMES
from predictor.trial import try_artifact

FILES = (HEAD, BOOSTER, CALIBRATION, SELFTEST)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A good artifact to damage."""
    return copied(tmp_path / "artifact")


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
        ("taught", np.array([2, 1], dtype=np.uint32)),
        ("taught", np.array([1.5])),
        ("unseen", np.zeros((1, 1), dtype=np.float16)),
    ],
)
def test_a_head_of_wrong_shapes_or_numbers_is_refused(directory: Path, array: str, value: Any) -> None:
    """Each array's shape, range and finiteness is checked, though every hash is right."""
    with pytest.raises(ArtifactError):
        load_artifact(with_arrays(directory, **{array: value}))


def test_a_head_from_before_prompts_were_kept_apart_serves(directory: Path) -> None:
    """It only forgets what taught it, and lends its columns as they are."""
    assert not len(load_artifact(with_arrays(directory, unseen=None)).head.taught)


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
