"""`headway serve` as its users run it: a process with a configuration file, a signal to read it again."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from bench.processes import free_port

_START_S: Final = 60.0
_HEADWAY: Final = Path(__file__).parents[2] / "headway.py"


class Served:
    """A serving process."""

    def __init__(self, engine: str, directory: Path, settings: dict[str, Any]) -> None:
        admin_port, port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._admin = f"http://127.0.0.1:{admin_port}/headway/status"
        self._file = directory / "headway.toml"
        self._log = directory / "log"
        self._settings = {
            "engine": [engine],
            "port": port,
            "admin_port": admin_port,
            "state": str(directory / "state"),
            "self_prediction": "off",
        } | settings
        self._write()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_HEADWAY), "serve", "--config", str(self._file)],
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    async def ready(self) -> None:
        """Wait until it serves; raises TimeoutError with the end of its log where it does not."""
        deadline_s = time.monotonic() + _START_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError):
                await self.status()
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(f"headway serve did not start: {self._log.read_text()[-2000:]}")

    def reload(self, **changed: Any) -> None:
        """Write the changed settings into its file, and send it SIGHUP."""
        self._settings |= changed
        self._write()
        self._process.send_signal(signal.SIGHUP)

    async def status(self) -> dict[str, Any]:
        """What the admin port tells."""
        async with aiohttp.ClientSession() as session, session.get(self._admin) as response:
            found: dict[str, Any] = msgspec.json.decode(await response.read())
            return found

    def rss_bytes(self) -> int:
        """Resident memory of the process now."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it as an operator would."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self) -> None:
        # Strings, numbers, booleans and lists of them are written alike in JSON and TOML.
        lines = (f"{name} = {msgspec.json.encode(value).decode()}" for name, value in self._settings.items())
        self._file.write_text("\n".join(lines) + "\n")


@contextlib.asynccontextmanager
async def served(engine: str, **settings: Any) -> AsyncIterator[Served]:
    """A serving process before one engine, with a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as directory:
        process = Served(engine, Path(directory), settings)
        try:
            await process.ready()
            yield process
        finally:
            process.stop()
