"""Retraining supervised: when it is time, in a child that dies with the proxy."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from proxy.retraining import Retraining, Signs, due

CALM = Signs(new_rows=500, since_s=1000.0, fallen=False, drift=1.0)
HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, ""),
        ({"new_rows": 2000}, "2000 new requests"),
        ({"fallen": True}, "found wrong"),
        ({"drift": 2.0}, "expected lengths are 2.00"),
        ({"drift": 0.5}, "expected lengths are 0.50"),
        ({"drift": None}, ""),
        ({"since_s": 7 * HOUR_S}, "7.0 h since"),
        ({"since_s": 7 * HOUR_S, "new_rows": 10}, ""),
        ({"new_rows": 9_000, "since_s": 10.0}, ""),
    ],
)
def test_rows_time_and_drift_ask_for_a_retraining(changed: dict[str, object], why: str) -> None:
    """Each by itself, but never on next to nothing new, and never twice within five minutes."""
    signs = msgspec.structs.replace(CALM, **changed)
    found = due(signs, every_s=6 * HOUR_S, rows=2000)
    assert why in found
    assert bool(found) is bool(why)


class Sleeper(Retraining):
    """A child that does not end by itself."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]


def supervisor(state: Path, kind: type[Retraining] = Retraining, rows: int = 1) -> Retraining:
    """One that finds it time at its first tick."""
    times = iter([0.0, 1e6, 1e6, 1e6])
    return kind(
        state,
        every_s=1e9,
        rows=rows,
        written=lambda: rows,
        live=lambda: (False, None),
        clock_s=lambda: next(times),
    )


async def test_what_the_child_says_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The real command on a state without a log: it fails with its one line, and the proxy goes on."""
    found = supervisor(tmp_path)
    await found.tick()
    assert (found.runs, found.failures, found.running) == (1, 1, False)
    assert "headway retrain: sqlite:///" in caplog.text
    assert "no such file" in caplog.text
    await found.tick()
    assert found.runs == 1


async def test_the_child_ends_with_its_supervisor(tmp_path: Path) -> None:
    """Cancelled in the middle: nothing is left running."""
    found = supervisor(tmp_path, Sleeper)
    task = asyncio.create_task(found.tick())
    said = tmp_path / "models" / "retrain.log"
    async with asyncio.timeout(60):
        while not said.exists() or b"begun" not in said.read_bytes():
            await asyncio.sleep(0.02)
    assert found.running
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not found.running


class Impatient(Exception):
    """Whoever ran the supervisor has had enough."""


@pytest.mark.parametrize("turns", range(8))
def test_ending_while_the_child_starts_leaves_nothing(tmp_path: Path, turns: int) -> None:
    """The event loop ends within the first turns of a retraining, cancelling all there is: it ends, and so does
    the child."""
    found: list[Retraining] = []

    async def serve() -> None:
        found.append(supervisor(tmp_path, Sleeper))
        async with asyncio.timeout(60):
            task = asyncio.create_task(found[0].tick())
            for _ in range(turns):
                await asyncio.sleep(0)
            assert not task.done()
            raise Impatient

    with pytest.raises(Impatient):
        asyncio.run(serve())
    assert not found[0].running
    assert not [pid for pid in _children(os.getpid()) if b"time.sleep(600)" in _command(pid)]


SERVER = """
import asyncio, sys
sys.path[:0] = [sys.argv[2], sys.argv[2] + "/tests"]
from pathlib import Path
from test_retraining import Sleeper, supervisor
asyncio.run(supervisor(Path(sys.argv[1]), Sleeper).tick())
"""


def test_the_child_dies_with_a_server_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves nobody to clean up: the child is gone all the same."""
    root = Path(__file__).parents[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path), str(root)])
    children: dict[str, str] = {}
    while len(children) < 2:
        assert server.poll() is None
        time.sleep(0.02)
        commands = {pid: _command(pid) for pid in _children(server.pid)}
        children = {
            name: pid
            for pid, command in commands.items()
            for name, mark in (("child", b"time.sleep(600)"), ("watcher", b"watcher"))
            if mark in command
        }
    child = children["child"]
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    while _alive(child):
        time.sleep(0.02)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _command(pid: str) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _alive(pid: str) -> bool:
    """Whether it still runs; a zombie that nobody waits for does not."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
