"""Rankers made in the test: a copy of the shipped artifact that a test may damage, and a head of 256 bins."""

import gzip
import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from predictor.artifact import METADATA
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from predictor.request import Api, InferenceRequest, body_from_dict
from predictor.text_head import TextHead

HEAD = "text_head.npz"
BOOSTER = "booster-0.txt.gz"
CALIBRATION = "calibration.json"
SELFTEST = "selftest.json"


def copied(directory: Path) -> Path:
    """A copy of the artifact that ships with Headway."""
    shutil.copytree(DEFAULT_ARTIFACT, directory)
    return directory


def change_metadata(directory: Path, **fields: Any) -> Path:
    """Write other values into metadata.json; a function is told the old value."""
    metadata = msgspec.json.decode((directory / METADATA).read_bytes())
    for name, value in fields.items():
        metadata[name] = value(metadata[name]) if callable(value) else value
    (directory / METADATA).write_bytes(msgspec.json.encode(metadata))
    return directory


def rewrite(directory: Path, name: str, data: bytes) -> Path:
    """Replace one file and write its right hash into metadata.json, as whoever forges an artifact would."""
    (directory / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return change_metadata(directory, sha256=lambda known: {**known, name: digest})


def edit(directory: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """Change one file's content (unpacked, where it is a model) and recompute its hash."""
    data = (directory / name).read_bytes()
    if name.endswith(".gz"):
        return rewrite(directory, name, gzip.compress(change(gzip.decompress(data))))
    return rewrite(directory, name, change(data))


def small_head(seed: int = 0) -> TextHead:
    """Random weights of two outputs on 256 bins, exact in half precision."""
    rng = np.random.default_rng(seed)
    return TextHead(
        bits=8,
        names=("text.0.left", "text.0.right"),
        idf=rng.uniform(1, 4, 256).astype(np.float16).astype(np.float32),
        weights=rng.normal(size=(256, 2)).astype(np.float16).astype(np.float32),
        bias=np.array([0.5, -1.0], dtype=np.float32),
    )


def asked(prompt: str = "Hello", **fields: Any) -> InferenceRequest:
    """A chat request with one user turn, unless `fields` name other messages."""
    body = body_from_dict({"messages": [{"role": "user", "content": prompt}], **fields})
    return InferenceRequest("r", Api.CHAT, body, 0)


def user(text: Any, *before: tuple[str, str], **fields: Any) -> dict[str, Any]:
    """A chat body whose last turn is the user's."""
    turns = [{"role": role, "content": content} for role, content in before]
    return {"messages": [*turns, {"role": "user", "content": text}], **fields}


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
