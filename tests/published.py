"""Artifacts for tests of the registry and of what serves from it: the wheel's, with a note that makes it another."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec

from predictor.artifact import METADATA
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from predictor.registry import Role, artifact_directory, artifact_id_of, models_directory, write_pointer


def add_artifact(state: Path, note: str, **files: bytes) -> str:
    """An artifact under the state directory whose id depends on `note`; `files` replace its own by stem."""
    staged = models_directory(state) / f".staged-{note}"
    shutil.copytree(DEFAULT_ARTIFACT, staged)
    metadata: dict[str, Any] = msgspec.json.decode((staged / METADATA).read_bytes())
    metadata["training"] = {"note": note}
    for stem, data in files.items():
        name = next(name for name in metadata["sha256"] if name.startswith(stem))
        (staged / name).write_bytes(data)
        metadata["sha256"][name] = hashlib.sha256(data).hexdigest()
    (staged / METADATA).write_bytes(msgspec.json.encode(metadata))
    artifact_id = artifact_id_of(staged)
    staged.rename(artifact_directory(state, artifact_id))
    return artifact_id


def publish(state: Path, note: str, role: Role = Role.CHAMPION) -> str:
    """Such an artifact, pointed at."""
    artifact_id = add_artifact(state, note)
    write_pointer(state, role, artifact_id)
    return artifact_id
