"""Where artifacts live under the state directory, and the two pointers that say which one serves.

<state>/models/<artifact id>/    one artifact; its id names its content
<state>/models/champion          the id of the one that serves; missing: the wheel's
<state>/models/shadow            the id of the one that is only watched; missing: none
<state>/models/decisions.jsonl   the journal: one JSON line for every decision about a model
"""

import os
import re
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Final

from predictor.artifact import METADATA, metadata_id
from predictor.errors import ArtifactError, PredictorError

_ID: Final = re.compile(r"[0-9a-f]{16}")
_LONGEST_POINTER_BYTES: Final = 64


class RegistryError(PredictorError):
    """A pointer that cannot be read or written, or that holds no artifact id."""


class Role(StrEnum):
    """What a pointer points at."""

    CHAMPION = "champion"
    SHADOW = "shadow"


def models_directory(state: Path) -> Path:
    """Where a state directory keeps its artifacts."""
    return state / "models"


def artifact_directory(state: Path, artifact_id: str) -> Path:
    """The directory of one artifact; it need not exist. Raises RegistryError where the id is none."""
    return models_directory(state) / checked_id(artifact_id)


def pointer_path(state: Path, role: Role) -> Path:
    """The file of one pointer."""
    return models_directory(state) / role.value


def journal_path(state: Path) -> Path:
    """The file of the journal."""
    return models_directory(state) / "decisions.jsonl"


def checked_id(text: str) -> str:
    """The same text; raises RegistryError where it is not 16 hexadecimal digits."""
    if not _ID.fullmatch(text):
        raise RegistryError(f"{text[:80]!r} is no artifact id: 16 hexadecimal digits are")
    return text


def artifact_id_of(directory: Path) -> str:
    """The id of an artifact: the first 16 hex digits of the SHA-256 of its metadata. Raises ArtifactError."""
    try:
        return metadata_id((directory / METADATA).read_bytes())
    except OSError as error:
        raise ArtifactError(directory, f"cannot read {METADATA}: {error.strerror}") from error


def read_pointer(state: Path, role: Role) -> str | None:
    """The artifact id that a pointer holds; None where there is no pointer.

    Raises RegistryError where it cannot be read or holds anything else.
    """
    path = pointer_path(state, role)
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST_POINTER_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RegistryError(f"cannot read {path}: {error.strerror}") from error
    try:
        return checked_id(data.decode("ascii", "backslashreplace").strip())
    except RegistryError as error:
        raise RegistryError(f"{path}: {error}; remove this file to begin anew") from error


def write_pointer(state: Path, role: Role, artifact_id: str | None) -> None:
    """Point at an artifact, or with None at nothing; whoever reads sees the old value or the new one.

    On return it is on the disk. Raises RegistryError where the id is none or the disk refuses.
    """
    path = pointer_path(state, role)
    if artifact_id is not None:
        checked_id(artifact_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if artifact_id is None:
            path.unlink(missing_ok=True)
        else:
            _replace(path, f"{artifact_id}\n".encode())
        _sync_directory(path.parent)
    except OSError as error:
        raise RegistryError(f"cannot write {path}: {error.strerror}") from error


def _replace(path: Path, data: bytes) -> None:
    number, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
