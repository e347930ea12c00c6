"""Servers under measurement: started on a given core, awaited, and asked for their CPU time and memory."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from bench.http_reading import HttpError
from bench.load import Load, drive

_START_S: Final = 90.0
_STOP_S: Final = 5.0
_POLL_S: Final = 0.1


class ServerError(Exception):
    """A server that could not be started; the message holds the end of what it printed."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Pin this process, and so whatever it starts meanwhile, to one core; None leaves it alone."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """A process that listens on `port`, with its children."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        log: Path,
        *,
        core: int | None,
        directory: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start `command` in `directory`, printing to `log`. Raises OSError where it cannot be started."""
        self.port = port
        self._log = log
        with on_core(core), log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def answer_to(self, request: bytes) -> None:
        """Wait until it answers one request with 200. Raises ServerError where it ends or takes too long."""
        deadline_s = time.monotonic() + _START_S
        reason = "did not listen"
        while self._process.poll() is None and time.monotonic() < deadline_s:
            try:
                await drive(self.port, Load(request, connections=1, count=1))
                return
            except (HttpError, OSError) as error:
                reason = str(error)
            await asyncio.sleep(_POLL_S)
        printed = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise ServerError(f"{self._process.args!r} {reason}; it printed:\n{printed}")

    def cpu_s(self) -> float:
        """CPU time of all its threads and children so far, in seconds (the kernel counts nanoseconds)."""
        return sum(_thread_cpu_ns(pid) for pid in _tree(self._process.pid)) / 1e9

    def rss_mb(self) -> float:
        """Resident memory of it and its children, in MB."""
        return sum(_rss_kb(pid) for pid in _tree(self._process.pid)) / 1024

    def stop(self) -> None:
        """End it, by force where it does not go."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _tree(pid: int) -> list[int]:
    """A process and all its descendants that still live."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        # Threads and children may end between the listing and the reading.
        with suppress(OSError):
            for child in task.read_text().split():
                found.extend(_tree(int(child)))
    return found


def _thread_cpu_ns(pid: int) -> int:
    total = 0
    for schedule in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            total += int(schedule.read_text().split()[0])
    return total


def _rss_kb(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0
