"""Keeps an engine running: starts it, waits until it is ready, and starts it again by policy when it ends."""

import asyncio
import logging
import os
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal

from proxy.launch.child import Child
from proxy.launch.plan import Plan

_LOG: Final = logging.getLogger("headway.run")
_POLL_S: Final = 0.25
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
# An engine that ended so often in a row without ever being ready will not be by trying again.
_MOST_FAILURES: Final = 5
_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 15

Restart = Literal["never", "on-failure", "always"]


class EngineEndedError(Exception):
    """The engine is gone and stays so; the message says why, with the end of its log."""


class Supervisor:
    """One engine. `start` once, then `watch` until it gives up or is cancelled, then `stop`."""

    def __init__(
        self, plan: Plan, log: Path, *, restart: Restart, ready_timeout_s: float, grace_s: float
    ) -> None:
        self._plan = plan
        self._log = log
        self._restart = restart
        self._ready_timeout_s = ready_timeout_s
        self._grace_s = grace_s
        self._child: Child | None = None
        self.starts = 0

    async def start(self) -> None:
        """Return when it is ready. Raises EngineEndedError, or OSError where it cannot be started at all."""
        self.starts += 1
        child = self._child = Child.start(self._plan.command, os.environ, self._log)
        _LOG.info("%s is starting (pid %d), its log is %s", self._plan.name, child.pid, self._log)
        try:
            async with asyncio.timeout(self._ready_timeout_s):
                await self._ready(child)
        except TimeoutError:
            await self.stop()
            raise EngineEndedError(
                f"{self._plan.name} was not ready after {self._ready_timeout_s:g} s (--ready-timeout)"
                f"; the end of {self._log}:\n{self._tail()}"
            ) from None
        _LOG.info("%s is ready at %s", self._plan.name, self._plan.url)

    async def watch(self) -> None:
        """Wait for its end and start it again, as the policy says; raises EngineEndedError when that is over."""
        failures = 0
        while self._child is not None:
            status = await self._child.ended()
            if self._restart == "never" or (self._restart == "on-failure" and status == 0):
                raise EngineEndedError(f"{self._plan.name} has ended with status {status}")
            _LOG.warning("%s has ended with status %d, it is started again", self._plan.name, status)
            failures = await self._start_again(failures)

    async def _start_again(self, failures: int) -> int:
        """Returns how often in a row it has not become ready."""
        await asyncio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**failures))
        try:
            await self.start()
        except EngineEndedError as error:
            if failures + 1 >= _MOST_FAILURES:
                raise
            _LOG.error("%s", error)
            return failures + 1
        return 0

    async def stop(self) -> None:
        """End it, gently first."""
        if self._child is not None:
            await self._child.stop(self._grace_s)

    async def _ready(self, child: Child) -> None:
        while not await _answers(self._plan.url + self._plan.ready_path):
            if child.status is not None:
                status = await child.ended()
                raise EngineEndedError(
                    f"{self._plan.name} ended with status {status} while starting; the end of {self._log}:\n"
                    f"{self._tail()}"
                )
            await asyncio.sleep(_POLL_S)

    def _tail(self) -> str:
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])


async def _answers(url: str) -> bool:
    """Whether a GET brings 200 within a second."""
    host, _, rest = url.removeprefix("http://").partition("/")
    name, _, port = host.rpartition(":")
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(name.strip("[]"), int(port))
            try:
                writer.write(f"GET /{rest} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return line.split(b" ")[1:2] == [b"%d" % HTTPStatus.OK]
