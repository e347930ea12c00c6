"""Starts an engine as a process group of its own, waits until it is ready, and sees to it that it ends with us."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from proxy.launch.child import WATCHER
from training.local_engines.cache import cache_root
from training.local_engines.engines import MODEL_NAME, available_cpus, engine_command, engine_environment
from training.local_engines.errors import EngineDiedError, EngineStartError
from training.local_engines.install import Install

HOST = "127.0.0.1"
USAGE_ERROR = 2
"""argparse's exit status: the same flags would fail again."""


@dataclass(frozen=True)
class Launch:
    """How to serve `model` (a folder) on loopback; may be started again and again.

    `flags` default to the engine's `default_flags` and follow the ones that a CPU needs. `env` wins over
    everything. `extra_path` goes on the engine's PYTHONPATH (SGLang: the folder that holds `sgl_kernel`).
    `port` is a free one unless given. The log is `log_dir/ENGINE-PORT.log` (default: in the cache).
    """

    install: Install
    model: Path
    flags: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    extra_path: Path | None = None
    port: int = 0
    log_dir: Path | None = None
    ready_timeout_s: float = 600.0  # 25 s alone; 170 s were seen beside busy neighbours


@dataclass(frozen=True)
class RunningEngine:
    """A started engine. Its methods block: from asyncio, call them through `asyncio.to_thread`."""

    launch: Launch
    port: int
    log_path: Path
    _process: subprocess.Popen[bytes]
    _watcher: subprocess.Popen[bytes]

    @property
    def base_url(self) -> str:
        """Where it serves; without a slash or `/v1` at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def model(self) -> str:
        """The model's name in requests."""
        return MODEL_NAME

    @property
    def pid(self) -> int:
        """The API server's process id, which is also its group's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the API server still runs."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait for the engine's own end; returns its exit status."""
        return self._process.wait()

    def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM to the process, SIGKILL to what is left of its group after `grace_s`. Harmless when repeated.

        Its own children it ends itself: SGLang takes their end by our signal for a crash.
        """
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group: the engine's sudden death."""
        # Once the watcher is reaped the group is gone, and its number may be somebody else's.
        if self._watcher.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._watcher.kill()
        self._watcher.communicate()

    def log_tail(self, lines: int = 25) -> str:
        """The end of the engine's log."""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def serving(launch: Launch) -> Iterator[RunningEngine]:
    """`start_engine`, and `stop` at the end of the block."""
    running = start_engine(launch)
    try:
        yield running
    finally:
        running.stop()


def start_engine(launch: Launch) -> RunningEngine:
    """Return when the engine is ready.

    One that dies while starting is started once more, unless it refused its flags. Raises EngineStartError
    with the end of the log.
    """
    try:
        return _start_once(launch)
    except EngineDiedError as death:
        if death.status == USAGE_ERROR:
            raise
        return _start_once(launch)


def _start_once(launch: Launch) -> RunningEngine:
    with contextlib.ExitStack() as on_failure:
        running = _spawn(launch)
        on_failure.callback(running.kill)
        _wait_ready(running)
        on_failure.pop_all()
    return running


def _spawn(launch: Launch) -> RunningEngine:
    install, port = launch.install, _free_port(launch.port)
    engine = install.engine
    flags = engine.default_flags if launch.flags is None else launch.flags
    log_dir = launch.log_dir or cache_root() / "logs"
    log_dir.mkdir(parents=True, exist_ok=True)
    log_path = log_dir / f"{engine.name}-{port}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            engine_command(engine, install.python, launch.model, port, flags),
            env=_environment(launch),
            cwd=install.root,  # `python -m` puts the working directory on the path: ours has a `proxy`
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", WATCHER, "watcher", str(process.pid)], stdin=subprocess.PIPE, start_new_session=True
    )
    return RunningEngine(launch, port, log_path, process, watcher)


def _environment(launch: Launch) -> dict[str, str]:
    engine, extra_path = launch.install.engine, launch.extra_path
    needed = engine.needs_on_path
    if needed and (extra_path is None or not (extra_path / needed).exists()):
        raise EngineStartError(f"{engine.name} needs {needed} on its path: give the folder that holds it")
    root = launch.install.root
    return engine_environment(engine, root, available_cpus(), os.environ, extra_path) | dict(launch.env)


def _free_port(wanted: int) -> int:
    """`wanted`, or any free port when it is 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the engines do, to restart at once
        try:
            probe.bind((HOST, wanted))
        except OSError as error:
            raise EngineStartError(
                f"port {wanted} cannot be used: {error.strerror}; choose another"
            ) from error
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(running: RunningEngine) -> None:
    name, timeout_s = running.launch.install.engine.name, running.launch.ready_timeout_s
    deadline_s = time.monotonic() + timeout_s
    while running.alive:
        if _answers(running.port, running.launch.install.engine.ready_path):
            return
        if time.monotonic() > deadline_s:
            problem = f"{name} was not ready after {timeout_s:.0f} s; the end of {running.log_path}:"
            raise EngineStartError(f"{problem}\n{running.log_tail()}")
        time.sleep(0.2)
    status = running.wait()
    problem = f"{name} ended with status {status} while starting; the end of {running.log_path}:"
    raise EngineDiedError(f"{problem}\n{running.log_tail()}", status)


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
