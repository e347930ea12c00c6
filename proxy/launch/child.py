"""An engine as a process group of its own, which ends with us however we end."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

# Ends the group when our end of the pipe closes, however we die. (PR_SET_PDEATHSIG would fire when the *thread*
# that started the engine ends, and would spare the engine's own children.)
WATCHER: Final = 'read -r _; kill -TERM "-$1" 2>/dev/null && sleep 5; kill -KILL "-$1" 2>/dev/null'

_LOG: Final = logging.getLogger("headway.run")
# One that waits for a driver in the kernel hears no signal, and may wait for ever.
_KILLED_S: Final = 5.0


class Child:
    """One running process with all that it starts. Its output goes to `log`."""

    def __init__(self, process: "subprocess.Popen[bytes]", watcher: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._watcher = watcher
        self._ended = _end_of(process)

    @classmethod
    def start(cls, command: Sequence[str], env: Mapping[str, str], log: Path) -> "Child":
        """Raises OSError where the command or the log cannot be opened.

        Not by asyncio, and at one go: a task that is cancelled while asyncio starts a process may wait for its end
        for ever, and between process and watcher it would leave a process behind.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                # `-m` puts the working directory on Python's path, where other packages may lie.
                env={**env, "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A Ctrl-C is meant for us: what runs is drained before the engine goes.
                start_new_session=True,
            )
        try:
            watcher = subprocess.Popen(
                ["/bin/sh", "-c", WATCHER, "watcher", str(process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            process.kill()
            process.wait()
            raise
        return cls(process, watcher)

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def ended(self) -> int:
        """Wait for its own end, and end what it has left behind; returns its exit status."""
        status = await asyncio.shield(self._ended)
        await self.stop(grace_s=0.0)
        return status

    async def stop(self, grace_s: float) -> None:
        """SIGTERM to the process, SIGKILL to what is left of its group after `grace_s` seconds.

        Its own children it ends itself: where they are told too, SGLang takes their end for a crash, and spends
        five seconds on finding out why. Returns within seconds of that, whatever becomes of it. Harmless when
        repeated.
        """
        if self._watcher.returncode is not None:
            return
        if not self._ended.done():
            self._process.terminate()
        await asyncio.wait([self._ended], timeout=grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await asyncio.wait([self._ended], timeout=_KILLED_S)
        if not self._ended.done():
            _LOG.error(
                "process %d has not ended by SIGKILL and keeps what it holds: it hangs in the kernel",
                self.pid,
            )
        # Only now: once the watcher is gone the group's number may be somebody else's.
        self._watcher.kill()
        self._watcher.communicate()


def _end_of(process: "subprocess.Popen[bytes]") -> asyncio.Future[int]:
    """The exit status, once there is one."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def wait() -> None:
        status = process.wait()
        # The loop may have ended before: then nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set_result, status)

    threading.Thread(target=wait, name=f"end of {process.pid}", daemon=True).start()
    return ended
