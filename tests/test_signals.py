"""Signals to `headway serve` while it starts: it stops when told to, and a reload does not kill it."""

import asyncio
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from harness import PATIENCE_S, engine_of

import headway
from proxy import serve
from proxy.app import Headway
from proxy.settings import Settings

ROOT = Path(headway.__file__).parent
# `headway serve` that gets a signal before it has imported anything.
EARLY = """
import importlib, os, sys
import headway
find = importlib.import_module
def told(name):
    if name == "proxy.serve":
        os.kill(os.getpid(), {number})
    return find(name)
importlib.import_module = told
sys.exit(headway.main(["serve", "--engine={engine}", "--port=0", "--state={state}", "--log-level=info"]))
"""


@pytest.mark.parametrize(
    "stage",
    [
        "proxy.discovery.Discovery.start",
        "proxy.shared.together.Together.start",
        "proxy.learning.Learning.start",
        "proxy.server.Listener.start",
        "proxy.health.HealthWatch.run",
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_start_that_hangs_is_stopped(
    stage: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it waits for, a signal ends the start as it ends serving: in good order, without an error."""
    hanging = asyncio.Event()
    stopped = asyncio.Event()
    stop = Headway.stop

    async def hang(*_: object) -> None:
        hanging.set()
        await asyncio.Event().wait()

    async def stop_and_tell(self: Headway) -> None:
        await stop(self)
        stopped.set()

    monkeypatch.setattr(stage, hang)
    monkeypatch.setattr(Headway, "stop", stop_and_tell)
    monkeypatch.setattr("proxy.app._FIRST_LOOK_S", 2 * PATIENCE_S)
    nowhere = "127.0.0.1:9"
    settings = Settings(
        engine=(f"http://{nowhere}",), redis=f"redis://{nowhere}/0", port=0, state=str(tmp_path)
    )
    serving = asyncio.create_task(serve._serve(settings, Namespace()))
    async with asyncio.timeout(PATIENCE_S):
        await hanging.wait()
        os.kill(os.getpid(), number)
        await serving
    assert stopped.is_set()


async def before_it_is_ready(
    number: signal.Signals, state: Path, then: Callable[[asyncio.subprocess.Process], Awaitable[None]]
) -> tuple[int, str]:
    """Exit status and log of a `headway serve` that had this signal before its settings were read."""
    async with engine_of() as engine:
        code = EARLY.format(number=int(number), engine=engine.url, state=state)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code), cwd=ROOT, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                await then(process)
                log = (await process.stderr.read()).decode()
                return await process.wait(), log
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_a_hangup_before_the_settings_are_read_ends_nothing(tmp_path: Path) -> None:
    """It is obeyed as soon as the proxy serves: the configuration may have changed while it was read."""

    async def until_reloaded(process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while b"reloaded" not in (line := await process.stderr.readline()):
            assert line, "it has ended"
        process.terminate()

    status, _ = await before_it_is_ready(signal.SIGHUP, tmp_path, until_reloaded)
    assert status == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_before_the_settings_are_read_is_heard(number: signal.Signals, tmp_path: Path) -> None:
    """Process 1 of a container would not even hear it: the proxy ends in good order and never serves."""

    async def at_once(_: asyncio.subprocess.Process) -> None:
        """It has been told already."""

    status, log = await before_it_is_ready(number, tmp_path, at_once)
    assert status == 0, log
    assert "serving on" not in log
    assert "Traceback" not in log


def test_signals_are_as_they_were_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Where `serve` refuses its settings, nothing stays held back in the process that asked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert headway.main(["serve", "--port", "none"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
