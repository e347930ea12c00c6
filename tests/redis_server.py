"""A real redis-server on a free port, that tests can kill and start again; fetched where the machine has none."""

import asyncio
import contextlib
import signal
import socket
import ssl
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


@contextlib.asynccontextmanager
async def way_to(
    port: int, *, tls: ssl.SSLContext | None = None, answering: asyncio.Event | None = None
) -> AsyncIterator[int]:
    """A port that leads to another one, over TLS or not; while `answering` is not set nothing comes back."""
    always = asyncio.Event()
    always.set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await may.wait()
                writer.write(data)
                await writer.drain()
        await may.wait()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, outer, always), pass_on(inner, writer, answering or always))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]
