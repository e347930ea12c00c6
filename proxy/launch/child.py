"""An engine as a process group of its own, which ends with us however we end."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

# Ends the group when our end of the pipe closes, however we die. (PR_SET_PDEATHSIG would fire when the *thread*
# that started the engine ends, and would spare the engine's own children.)
WATCHER: Final = 'read -r _; kill -TERM "-$1" 2>/dev/null && sleep 5; kill -KILL "-$1" 2>/dev/null'


class Child:
    """One running process with all that it starts. Its output goes to `log`."""

    def __init__(self, process: asyncio.subprocess.Process, watcher: asyncio.subprocess.Process) -> None:
        self._process = process
        self._watcher = watcher

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], log: Path) -> "Child":
        """Raises OSError where the command or the log cannot be opened."""
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                # `-m` puts the working directory on Python's path, where other packages may lie.
                env={**env, "PYTHONSAFEPATH": "1"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                # A Ctrl-C is meant for us: what runs is drained before the engine goes.
                start_new_session=True,
            )
        watcher = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", WATCHER, "watcher", str(process.pid)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        return cls(process, watcher)

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.returncode

    async def ended(self) -> int:
        """Wait for its own end, and end what it has left behind; returns its exit status."""
        status = await self._process.wait()
        await self.stop(grace_s=0.0)
        return status

    async def stop(self, grace_s: float) -> None:
        """SIGTERM to the process, SIGKILL to what is left of its group after `grace_s` seconds.

        Its own children it ends itself: where they are told too, SGLang takes their end for a crash, and spends
        five seconds on finding out why. Harmless when repeated.
        """
        if self._watcher.returncode is not None:
            return
        if self._process.returncode is None:
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
        # Only now: once the watcher is gone the group's number may be somebody else's.
        self._watcher.kill()
        await self._watcher.wait()
