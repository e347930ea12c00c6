"""The emulated engine as an object: start it, switch faults, kill it, stop it."""

import asyncio
from collections import deque
from types import TracebackType
from typing import Final

from aiohttp import web

from training.emulator.faults import Faults, FaultSwitch
from training.emulator.http import make_app
from training.emulator.inference import EmulatorConfig, Inference, Received
from training.lengths import LengthTable

_BACKLOG: Final = 4096
_SHUTDOWN_S: Final = 0.05


class EmulatedEngine:
    """The engine inside this process; an async context manager, or `start()` and `stop()`.

    `die()` is kill -9: the port is closed, connections are reset, the queue is lost; `start()` brings a new
    life on the same port.
    """

    def __init__(self, config: EmulatorConfig, lengths: LengthTable) -> None:
        self.config = config
        self.lengths = lengths
        self.received: deque[Received] = deque(maxlen=config.keep_received)
        self._faults = FaultSwitch()
        self._port = config.port
        self._inference: Inference | None = None
        self._runner: web.AppRunner | None = None
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on; the one that the system chose where the configuration says 0."""
        return self._port

    @property
    def url(self) -> str:
        """Base URL, without a path."""
        return f"http://{self.config.host}:{self._port}"

    @property
    def inference(self) -> Inference:
        """The present life; RuntimeError when it is not started."""
        if self._inference is None:
            raise RuntimeError("the emulated engine is not running: call start()")
        return self._inference

    def set_faults(self, faults: Faults) -> None:
        """Replace all faults, from the next request on; `Faults()` heals."""
        self._faults.set(faults)
        self.inference.loop.set_slowness(faults.slowness)

    async def start(self) -> None:
        """Listen and run."""
        self._inference = Inference(self.config, self.lengths)
        self._loop_task = asyncio.create_task(self._inference.loop.run())
        self._runner = web.AppRunner(
            make_app(self._inference, self._faults, self.received),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=self.config.keep_alive_s,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.config.host, self._port, backlog=_BACKLOG, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close everything; requests under way are cut."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
            self._loop_task = None
        self._inference = None

    async def die(self) -> None:
        """Reset every connection, then stop."""
        server = self._runner.server if self._runner is not None else None
        for connection in server.connections if server is not None else []:
            if connection.transport is not None:
                connection.transport.abort()
        await self.stop()

    async def __aenter__(self) -> "EmulatedEngine":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
