"""A real redis-server on a free port, that tests can kill and start again; fetched where the machine has none."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import redis.asyncio
from helm.tools import redis_folder


class RedisServer:
    """One server; it keeps all that it has confirmed over `kill` and `start`.

    By default Redis may confirm up to two seconds of commands before it writes them, where the disk is slow.
    """

    def __init__(self, folder: Path, *options: str, password: str | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._folder = folder
        self._options = [*options, *(["--requirepass", password] if password else [])]
        self._process: asyncio.subprocess.Process | None = None
        self.client: Any = redis.asyncio.Redis(port=self.port, protocol=3, password=password)

    @property
    def url(self) -> str:
        """What proxies are told."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [str(redis_folder() / "redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self._folder), "--save", "", "--appendonly", "yes"]
        command += ["--appendfsync", "always", *self._options]
        quiet = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
        async with asyncio.timeout(60):
            while not await self._answers():
                await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            await self.client.ping()
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False
        return True

    async def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(how)
            await self._process.wait()

    def freeze(self) -> None:
        """It keeps its connections and answers nobody, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextlib.asynccontextmanager
async def redis_server(
    folder: Path, *options: str, password: str | None = None
) -> AsyncIterator[RedisServer]:
    """A running server, killed at the end."""
    server = RedisServer(folder / "redis", *options, password=password)
    try:
        await server.start()
        yield server
    finally:
        await server.client.aclose()
        await server.kill()
