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
from logged_traffic import write_log

from proxy.retraining import Retraining, Signs, due, rest_s
from training.registry.journal import Decision, Outcome, write_lines

CALM = Signs(new_rows=500, since_s=1000.0, resting=False, fallen=False, drift=1.0)
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
        ({"new_rows": 9_000, "resting": True}, ""),
    ],
)
def test_rows_time_and_drift_ask_for_a_retraining(changed: dict[str, object], why: str) -> None:
    """Each by itself, but never on next to nothing new, and never while it is to rest."""
    signs = msgspec.structs.replace(CALM, **changed)
    found = due(signs, every_s=6 * HOUR_S, rows=2000)
    assert why in found
    assert bool(found) is bool(why)


class Deciding(Retraining):
    """Whose child is no trainer: it adds a line to the journal and ends."""

    def command(self) -> list[str]:
        return ["/bin/sh", "-c", 'cat "$0/line" >> "$0/models/decisions.jsonl"', str(self._state)]


class Beside:
    """Such a supervisor in a time of its own."""

    def __init__(
        self, state: Path, *, rows: int = 2000, drift: float | None = None, wall_s: float = 0.0
    ) -> None:
        self.now_s, self.rows, self.drift = 0.0, 0, drift
        self._line = state / "line"
        self.retraining = Deciding(
            state,
            every_s=6 * HOUR_S,
            rows=rows,
            written=lambda: self.rows,
            live=lambda: (False, self.drift),
            clock_s=lambda: self.now_s,
            wall_s=lambda: wall_s + self.now_s,
        )
        self.decision(Outcome.REFUSED)

    def decision(self, outcome: Outcome) -> None:
        """What the next children decide."""
        self._line.write_bytes(line_of(outcome) + b"\n")

    async def runs_until(self, end_s: float) -> list[float]:
        """Tick every 100 s until then, ten rows a second; when children ran."""
        ran = []
        while self.now_s < end_s:
            self.now_s += 100
            self.rows += 1000
            before = self.retraining.runs
            await self.retraining.tick()
            ran += [self.now_s] * (self.retraining.runs - before)
        return ran


def line_of(outcome: Outcome, at: str = "1970-01-01T00:00:00+00:00", newest: str = "") -> bytes:
    """A line of the journal about a retraining."""
    return msgspec.json.encode(Decision(action="retrain", outcome=outcome, reason="", at=at, newest=newest))


async def test_refusals_are_followed_by_longer_and_longer_rests(tmp_path: Path) -> None:
    """Drift asks all the time: 300 s after the start, then twice as long after each refusal in a row, never longer
    than the schedule; a publication makes it 300 s again."""
    beside = Beside(tmp_path, rows=10**9, drift=2.0)
    assert await beside.runs_until(9_000) == [300, 900, 2100, 4500]
    beside.decision(Outcome.PUBLISHED)
    assert await beside.runs_until(9_900) == [9300, 9600, 9900]
    assert rest_s(9, 6 * HOUR_S) == rest_s(10_000, 6 * HOUR_S) == 6 * HOUR_S
    assert rest_s(10_000, 1e9) == 24 * HOUR_S
    assert rest_s(3, 1.0) == rest_s(0, 1e9) == 300


@pytest.mark.parametrize(
    ("lines", "rows", "why"),
    [
        ([line_of(Outcome.PUBLISHED, newest="99000000:r000099")], 2000, "7.1 h since the last time"),
        ([line_of(Outcome.PUBLISHED, newest="99000000:r000099")], 200, "200 new requests"),
        ([line_of(Outcome.PUBLISHED, newest="100000000:r000100")], 200, ""),
        ([line_of(Outcome.PUBLISHED, at="1970-01-01T06:00:00+00:00")], 2000, ""),
        ([], 2000, "7.1 h since the last time"),
        ([line_of(Outcome.REFUSED, at="1970-01-01T05:00:00+00:00")] * 6, 200, ""),
    ],
)
async def test_a_restart_does_not_begin_the_schedule_anew(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    lines: list[bytes],
    rows: int,
    why: str,
) -> None:
    """Started seven hours after the last decision, or after the log's first request where there was none: hours,
    rows and refusals of before count, and it is time as soon as the start has been rested from."""
    caplog.set_level("INFO")
    write_log(tmp_path, 300)
    write_lines(tmp_path, lines)
    beside = Beside(tmp_path, rows=rows, wall_s=7 * HOUR_S)
    await beside.retraining.resume()
    beside.now_s = 299.0
    await beside.retraining.tick()
    assert beside.retraining.runs == 0
    beside.now_s = 301.0
    await beside.retraining.tick()
    assert beside.retraining.runs == bool(why)
    assert f"retraining: {why}" in caplog.text or not why


async def test_the_supervisor_looks_back_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to itself it resumes first: what lies in the log since long ago is retrained on."""
    monkeypatch.setattr("proxy.retraining._TICK_S", 0.0)
    write_log(tmp_path, 300)
    beside = Beside(tmp_path, rows=300)
    task = asyncio.create_task(beside.retraining.run())
    beside.now_s = 301.0
    async with asyncio.timeout(60):
        while beside.retraining.runs == 0:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_past_that_cannot_be_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged log keeps nobody from retraining: a warning, and the schedule begins with this process."""
    (tmp_path / "traffic.db").write_bytes(b"no database " * 1000)
    beside = Beside(tmp_path, drift=2.0)
    await beside.retraining.resume()
    assert "earlier retrainings are not taken into account: file is not a database" in caplog.text
    assert await beside.runs_until(300) == [300]


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


def test_the_child_is_ours_whatever_lies_in_the_working_directory(tmp_path: Path) -> None:
    """Retraining works also where serving was started beside a package of somebody's that is called `training`."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    command = [*supervisor(tmp_path).command(), "--help"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


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
