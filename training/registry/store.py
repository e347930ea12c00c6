"""Artifacts into the registry: staged aside, on the disk, then renamed and pointed at, so that none is half there."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from predictor.artifact import METADATA, read_metadata
from predictor.errors import PredictorError
from predictor.registry import (
    Role,
    artifact_directory,
    artifact_id_of,
    models_directory,
    read_pointer,
    write_pointer,
)
from predictor.trial import try_artifact
from training.registry.journal import (
    Decision,
    Outcome,
    champions_before,
    locked,
    read_decisions,
    write_decision,
)

KEEP: Final = 5
_LOCK: Final = "registry.lock"
_STAGED: Final = ".staged-"
# What a killed process has left of its staging is cleared away after so long; nobody stages for that long.
_STALE_S: Final = 24 * 3600.0
_ROLES: Final = {Outcome.PUBLISHED: Role.CHAMPION, Outcome.SHADOWED: Role.SHADOW}


@contextmanager
def staging(state: Path) -> Iterator[Path]:
    """A directory beside the artifacts to write a candidate to; it is gone afterwards. Raises OSError."""
    models = models_directory(state)
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=_STAGED) as name:
        yield Path(name)


def adopt(state: Path, directory: Path) -> str:
    """Try a candidate in a child process, then take it into the registry; returns its id.

    Harmless when repeated. Raises PredictorError where it is no usable artifact, OSError where the disk refuses.
    """
    try_artifact(directory)
    artifact_id = artifact_id_of(directory)
    home = artifact_directory(state, artifact_id)
    if home.exists():
        if _is_whole(home):
            return artifact_id
        _delete(home)
    with staging(state) as aside:
        copy = aside / "artifact"
        copy.mkdir()
        for name in (METADATA, *read_metadata(directory).sha256):
            shutil.copyfile(directory / name, copy / name)
            _sync(copy / name)
        _sync(copy)
        try:
            copy.rename(home)
        except OSError as error:
            # Two at once bring the same artifact: one of them is enough.
            if not (home / METADATA).exists():
                raise error
    _sync(home.parent)
    return artifact_id


def publish(state: Path, decision: Decision, *, expected: str | None) -> Decision:
    """Write a decision down and, unless it is a refusal, point at its artifact; returns it as written.

    `expected` is the champion that the candidate was compared with: where another one has come meanwhile,
    nothing changes and the decision becomes a refusal. Raises PredictorError or OSError.
    """
    role = _ROLES.get(decision.outcome)
    if role is None:
        return write_decision(state, decision)
    with locked(state, _LOCK, wait=True):
        champion = read_pointer(state, Role.CHAMPION)
        if role is Role.CHAMPION and champion != expected:
            reason = f"the champion changed to {champion or 'the default'} meanwhile; run it again"
            return write_decision(state, replace(decision, outcome=Outcome.REFUSED, reason=reason))
        write_pointer(state, role, decision.artifact)
        written = write_decision(state, decision)
        prune(state)
        return written


def roll_back(state: Path, target: str | None = None) -> Decision:
    """Point at the champion before this one, or at `target` (`default`: the ranker in the wheel).

    Raises PredictorError where there is nothing to go back to.
    """
    with locked(state, _LOCK, wait=True):
        champion = read_pointer(state, Role.CHAMPION)
        chosen = _earlier(state, champion) if target is None else None if target == "default" else target
        if chosen is not None and not (artifact_directory(state, chosen) / METADATA).exists():
            raise PredictorError(f"there is no artifact {chosen} in {models_directory(state)}")
        if chosen == champion:
            raise PredictorError(f"{chosen or 'the default'} is the champion already")
        write_pointer(state, Role.CHAMPION, chosen)
        reason = "asked for by an operator"
        decision = Decision(
            action="rollback", outcome=Outcome.ROLLED_BACK, reason=reason, artifact=chosen, replaced=champion
        )
        return write_decision(state, decision)


def prune(state: Path, keep: int = KEEP) -> list[str]:
    """Delete all but the newest `keep` artifacts; champion, shadow and whom a rollback goes to are kept too."""
    champion = read_pointer(state, Role.CHAMPION)
    earlier = champions_before(read_decisions(state), champion)[-1:]
    needed = {champion, read_pointer(state, Role.SHADOW), *earlier}
    spare = [one for one in stored(state)[keep:] if one not in needed]
    for artifact_id in spare:
        _delete(artifact_directory(state, artifact_id))
    for left in models_directory(state).glob(f"{_STAGED}*"):
        if time.time() - left.stat().st_mtime > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)
    return spare


def stored(state: Path) -> list[str]:
    """Ids of all artifacts in the registry, the newest first."""
    found = models_directory(state).glob("[0-9a-f]*/" + METADATA)
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.name for path in newest]


def _earlier(state: Path, champion: str | None) -> str | None:
    if champion is None:
        raise PredictorError("the ranker in the wheel serves: there is nothing to roll back")
    for candidate in reversed(champions_before(read_decisions(state), champion)):
        if candidate is None or (artifact_directory(state, candidate) / METADATA).exists():
            return candidate
    return None


def _is_whole(directory: Path) -> bool:
    try:
        try_artifact(directory)
    except PredictorError:
        return False
    return True


def _delete(directory: Path) -> None:
    """Out of sight first: a process killed in the middle must not leave half an artifact under its id."""
    aside = Path(tempfile.mkdtemp(dir=directory.parent, prefix=_STAGED))
    directory.rename(aside / directory.name)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
