"""Artifacts into the registry: staged aside, on the disk, then renamed and pointed at, so that none is half there."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    recorded,
    write_decision,
)

_LOG: Final = logging.getLogger("headway.registry")
KEEP: Final = 5
_LOCK: Final = "registry.lock"
_STAGED: Final = ".staged-"
# Whatever is written aside begins with a dot; what a killed process has left of it is cleared away after so long.
_ASIDE: Final = ".*"
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
    nothing changes and the decision becomes a refusal. Whatever it is, old artifacts go. Raises PredictorError or
    OSError, and then nothing has changed.
    """
    with locked(state, _LOCK, wait=True):
        try:
            return _publish(state, decision, expected)
        finally:
            _clear_away(state)


def _publish(state: Path, decision: Decision, expected: str | None) -> Decision:
    role = _ROLES.get(decision.outcome)
    if role is None:
        return write_decision(state, decision)
    champion = read_pointer(state, Role.CHAMPION)
    if role is Role.CHAMPION and champion != expected:
        reason = f"the champion changed to {champion or 'the default'} meanwhile; run it again"
        again = replace(decision, outcome=Outcome.REFUSED, reason=reason, newest="")
        return write_decision(state, again)
    _check_there(state, decision.artifact)
    return _point(state, role, replace(decision, replaced=champion))


def _point(state: Path, role: Role, decision: Decision) -> Decision:
    """Write a decision down, then let its artifact have the role; where the disk refuses, neither.

    In this order, because a full disk lets a line be taken out again, but may not let a pointer be written back.
    """
    before = read_pointer(state, role)
    with recorded(state, decision) as written:
        try:
            write_pointer(state, role, decision.artifact)
        except BaseException:
            # It may be in place, and only its directory not be on the disk; what failed first is what is said.
            with suppress(PredictorError):
                write_pointer(state, role, before)
            raise
    return written


def end_shadow(state: Path) -> Decision:
    """Let nobody be watched any more. Raises PredictorError where nobody is, that or OSError where the disk refuses."""
    with locked(state, _LOCK, wait=True):
        shadow = read_pointer(state, Role.SHADOW)
        if shadow is None:
            raise PredictorError("there is no shadow")
        reason = "asked for by an operator"
        ended = Decision(action="rollback", outcome=Outcome.SHADOW_ENDED, reason=reason, artifact=shadow)
        with recorded(state, ended) as written:
            write_pointer(state, Role.SHADOW, None)
    return written


def roll_back(state: Path, target: str | None = None) -> Decision:
    """Point at the champion before this one, or at `target` (`default`: the ranker in the wheel).

    Raises PredictorError where there is nothing to go back to or it is damaged, that or OSError where the disk
    refuses; nothing has changed then.
    """
    with locked(state, _LOCK, wait=True):
        champion = read_pointer(state, Role.CHAMPION)
        chosen = _earlier(state, champion) if target is None else None if target == "default" else target
        _check_there(state, chosen)
        if chosen == champion:
            raise PredictorError(f"{chosen or 'the default'} is the champion already")
        if chosen is not None:
            try_artifact(artifact_directory(state, chosen))
        reason = "asked for by an operator"
        decision = Decision(
            action="rollback", outcome=Outcome.ROLLED_BACK, reason=reason, artifact=chosen, replaced=champion
        )
        try:
            return _point(state, Role.CHAMPION, decision)
        finally:
            _clear_away(state)


def prune(state: Path, keep: int = KEEP) -> list[str]:
    """Delete all but the newest `keep` artifacts, those of the latest `keep` decisions, and those that serve.

    Champion, shadow and the latest `keep` on the way back stay, however many were refused since.
    """
    champion, decisions = read_pointer(state, Role.CHAMPION), read_decisions(state)
    earlier = champions_before(decisions, champion)[-keep:]
    decided = {one.artifact for one in decisions[-keep:]}
    needed = {champion, read_pointer(state, Role.SHADOW), *earlier, *decided}
    spare = [one for one in stored(state)[keep:] if one not in needed]
    for artifact_id in spare:
        _delete(artifact_directory(state, artifact_id))
    for left in models_directory(state).glob(_ASIDE):
        # Whoever writes beside us may clear its own away first.
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return spare


def _clear_away(state: Path) -> None:
    """Prune, and let no champion be its own shadow, whatever became of a candidate.

    What cannot be done now can be after the next one.
    """
    try:
        if read_pointer(state, Role.SHADOW) == read_pointer(state, Role.CHAMPION):
            write_pointer(state, Role.SHADOW, None)
        prune(state)
    except (OSError, PredictorError) as error:
        _LOG.warning("old artifacts stay in %s: %s", models_directory(state), error)


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


def _check_there(state: Path, artifact_id: str | None) -> None:
    if artifact_id is not None and not (artifact_directory(state, artifact_id) / METADATA).exists():
        raise PredictorError(f"there is no artifact {artifact_id} in {models_directory(state)}")


def _is_whole(directory: Path) -> bool:
    try:
        try_artifact(directory)
    except PredictorError:
        return False
    return True


def _delete(directory: Path) -> None:
    """Out of sight first: a process killed in the middle must not leave half an artifact under its id.

    By a new name alone: a full disk refuses new directories.
    """
    aside = directory.with_name(f"{_STAGED}{directory.name}-{time.time_ns()}")
    directory.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
