"""Directories that are built once: keyed by what goes into them, built aside, renamed when complete."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[str, float], None]
"""Told what is being done and the done share of it in [0, 1]."""

PARTIAL = ".partial-"


def silent(_: str, __: float) -> None:
    """Progress that nobody looks at."""


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/headway`, else `~/.cache/headway` (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "headway"


def recipe_key(*parts: str) -> str:
    """Twelve hexadecimal digits that change with any of the parts or their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:12]


def build_once(target: Path, build: Callable[[Path], None], progress: Progress = silent) -> Path:
    """Return `target`, after `build(directory)` has filled an empty directory that then takes its place.

    Safe between processes and threads: one builds, the others wait for it. Nobody ever sees a half-built
    target; what a killed builder leaves behind is removed by the next one. An error of `build` is raised
    again, with nothing left behind.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(_lock_path(target), progress):
        if not target.is_dir():
            _sweep(target)
            partial = Path(tempfile.mkdtemp(prefix=target.name + PARTIAL, dir=target.parent))
            try:
                build(partial)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return target


def _lock_path(target: Path) -> Path:
    return target.with_name(target.name + ".lock")


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that builds the same", 0.0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(target: Path) -> None:
    """Remove half-built directories whose builder is gone: ours, since we hold its lock, and unlocked ones."""
    for partial in target.parent.glob(f"*{PARTIAL}*"):
        owner = partial.with_name(partial.name.split(PARTIAL)[0])
        if owner == target:
            shutil.rmtree(partial, ignore_errors=True)
            continue
        with _lock_path(owner).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(partial, ignore_errors=True)
