"""Artifacts taken into service while requests run: tried in a child, loaded in a thread, swapped on the loop."""

import asyncio
import collections
import logging
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from predictor.errors import ArtifactError, PredictorError, TrialUnfinishedError
from predictor.history import History
from predictor.lightgbm_ranker import LightGBMRanker
from predictor.registry import RegistryError, Role, artifact_directory, pointer_path, read_pointer
from predictor.trial import try_artifact

_LOG: Final = logging.getLogger("headway.artifacts")
_POLL_S: Final = 2.0
# Until an artifact is tried again whose trial did not come to an end.
_AGAIN_S: Final = 60.0
# The file's inode, size and time of change; None where there is no file.
_Mark = tuple[int, int, int] | None


class ArtifactSource(Protocol):
    """Where it is told which artifact is to serve: the pointer file, or whatever proxies share."""

    async def next(self) -> str | None:
        """Wait for news, and give the artifact id that is to serve; None: none was published.

        The first call answers at once. The artifact's directory is under the state directory by then. Raises
        PredictorError where the news cannot be read: it is said once, what serves goes on serving, and `next`
        is called again.
        """
        ...

    def wake(self) -> None:
        """Let `next` answer now, whether there is news or not."""
        ...


class PointerFile:
    """An `ArtifactSource`: a pointer under the state directory, looked at every two seconds."""

    def __init__(self, state: Path, role: Role) -> None:
        self._state = state
        self._role = role
        self._woken = asyncio.Event()
        self._woken.set()
        self._seen: _Mark = None

    async def next(self) -> str | None:
        while True:
            mark = await asyncio.to_thread(_mark, pointer_path(self._state, self._role))
            if mark != self._seen or self._woken.is_set():
                self._woken.clear()
                self._seen = mark
                return await asyncio.to_thread(read_pointer, self._state, self._role)
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._woken.wait()

    def wake(self) -> None:
        self._woken.set()


def _mark(path: Path) -> _Mark:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class ArtifactWatch:
    """Keeps what serves what its source says. `outcomes` counts: loaded, refused (broken, missing or not what
    its id says), unreadable (the pointer)."""

    def __init__(
        self,
        source: ArtifactSource,
        *,
        role: Role,
        state: Path,
        history: History,
        take: Callable[[LightGBMRanker | None], None],
        unpublished: Path | None = None,
    ) -> None:
        """`take` puts a loaded ranker into service; `unpublished` is the artifact where none is published."""
        self._role = role
        self._state = state
        self._source = source
        self._history = history
        self._take = take
        self._unpublished = unpublished
        self._current: str | None = None
        self.outcomes = collections.Counter(loaded=0, refused=0, unreadable=0)

    def wake(self) -> None:
        """Look again now, at an artifact that was refused too."""
        self._source.wake()

    async def run(self) -> None:
        """Follow the source until cancelled."""
        while True:
            try:
                await self.follow()
            except Exception:  # noqa: BLE001 - the edge of the task: what serves must not depend on it
                _LOG.exception("following %s failed", self._role.value)
                await asyncio.sleep(_POLL_S)

    async def follow(self) -> None:
        """Wait for one piece of news and act on it; whatever is wrong with it, what serves goes on serving."""
        try:
            wanted = await self._source.next()
        except PredictorError as error:
            self._refused("unreadable", error)
            return
        if wanted == self._current:
            return
        try:
            ranker = await self._prepare(wanted)
        except TrialUnfinishedError as error:
            self._refused("refused", error, f"it is tried again in {_AGAIN_S:g} s")
            asyncio.get_running_loop().call_later(_AGAIN_S, self.wake)
            return
        except PredictorError as error:
            self._refused("refused", error)
            return
        self._take(ranker)
        self._current = wanted
        self.outcomes["loaded"] += 1
        _LOG.info("%s is now %s", self._role.value, wanted or "what comes with Headway")

    async def _prepare(self, wanted: str | None) -> LightGBMRanker | None:
        """The artifact, tried and loaded. Raises PredictorError. Cancelled, it ends the trial: its thread, and with it
        a proxy that is to stop, would wait for that."""
        trials: list[subprocess.Popen[bytes]] = []
        try:
            return await asyncio.to_thread(self._prepared, wanted, trials.append)
        except asyncio.CancelledError:
            for trial in trials:
                trial.kill()
            raise

    def _prepared(
        self, wanted: str | None, started: Callable[[subprocess.Popen[bytes]], object]
    ) -> LightGBMRanker | None:
        """In a thread: the artifact, tried and loaded. Raises PredictorError."""
        if wanted is None:
            if self._unpublished is None:
                return None
            return LightGBMRanker.load(self._unpublished, self._history)
        directory = artifact_directory(self._state, wanted)
        if not directory.is_dir():
            raise RegistryError(f"artifact {directory} is not there")
        try_artifact(directory, started=started)
        try:
            ranker = LightGBMRanker.load(directory, self._history)
        except PredictorError:
            raise
        except Exception as error:  # what an artifact can make a loader raise is no closed list
            raise ArtifactError(directory, f"{type(error).__name__}: {error}") from error
        if ranker.artifact_id != wanted:
            raise ArtifactError(directory, f"its content is that of {ranker.artifact_id}")
        return ranker

    def _refused(
        self, outcome: str, error: PredictorError, then: str = "publish again, or SIGHUP to try once more"
    ) -> None:
        self.outcomes[outcome] += 1
        _LOG.error(
            "%s stays %s: %s (%s)",
            self._role.value,
            self._current or "what it was",
            error,
            then,
        )
