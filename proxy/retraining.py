"""`headway retrain` supervised: a niced child of its own, when enough was logged, time is up or the ranker drifts."""

import asyncio
import contextlib
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from proxy.launch.child import Child
from proxy.retraining_past import Past, look_back
from proxy.status import RetrainingStatus

_LOG: Final = logging.getLogger("headway.retraining")
_TICK_S: Final = 5.0
_NICENESS: Final = 10
_GRACE_S: Final = 5.0
# Between two runs, and after our start: a machine that a retraining brings down must not begin with the next one.
_REST_S: Final = 300.0
_LONGEST_REST_S: Final = 24 * 3600.0
# What must be new before the schedule or drift ask for one.
_FEWEST_NEW: Final = 200
# Expected over actual tokens beyond this, either way, is another workload than the one trained on.
_DRIFTED: Final = 1.5


class Signs(msgspec.Struct, frozen=True):
    """What a decision to retrain goes by: rows logged since the last run began, seconds since, and how the ranker
    does. `drift` is expected over actual tokens, None where too little has ended to tell."""

    new_rows: int
    since_s: float
    resting: bool
    fallen: bool
    drift: float | None


def due(signs: Signs, *, every_s: float, rows: int) -> str:
    """Why it is time to retrain; empty where it is not."""
    if signs.resting or signs.new_rows < min(_FEWEST_NEW, rows):
        return ""
    if signs.new_rows >= rows:
        return f"{signs.new_rows} new requests"
    if signs.fallen:
        return "the ranker was found wrong"
    if signs.drift is not None and not 1 / _DRIFTED <= signs.drift <= _DRIFTED:
        return f"expected lengths are {signs.drift:.2f} of the actual ones"
    if signs.since_s >= every_s:
        return f"{signs.since_s / 3600:.1f} h since the last time"
    return ""


def rest_s(refusals: int, every_s: float) -> float:
    """Between two runs: twice as long after each refusal in a row, because drift may ask for one all the time that
    none is better; never longer than the schedule has it or a day."""
    longest_s = max(_REST_S, min(every_s, _LONGEST_REST_S))
    return float(min(_REST_S * 2 ** min(refusals, 16), longest_s))


class Retraining:
    """Runs beside the proxy; the child dies with it. `runs` and `failures` count, `running` says whether it works."""

    def __init__(
        self,
        state: Path,
        *,
        every_s: float,
        rows: int,
        written: Callable[[], int],
        live: Callable[[], tuple[bool, float | None]],
        clock_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """`written` counts rows of the log since the start; `live` tells whether the ranker has fallen, and drift.
        `wall_s` is Unix time, by which the journal is dated."""
        self._state = state
        self._every_s = every_s
        self._rows = rows
        self._written = written
        self._live = live
        self._clock_s = clock_s
        self._wall_s = wall_s
        self._rows_before = 0
        self._started_s = self._began_s = clock_s()
        self._refusals = 0
        self.running = False
        self.runs = 0
        self.failures = 0
        self._last = ""

    def status(self) -> RetrainingStatus:
        """For the status page."""
        return RetrainingStatus(self.running, self.runs, self.failures, self._last)

    async def run(self) -> None:
        """Until cancelled, which ends the child too."""
        await self.resume()
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                await self.tick()
            except OSError as error:
                self.failures += 1
                _LOG.error("headway retrain could not be started: %s", error)

    async def resume(self) -> None:
        """Go on from where the process before this one stopped: one that restarts often must retrain too."""
        past = await self._look_back(self._rows)
        if past is None:
            return
        self._refusals = past.refusals
        self._rows_before = self._written() - past.new_rows
        if past.since_s is not None:
            self._began_s -= max(0.0, self._wall_s() - past.since_s)

    async def tick(self) -> None:
        """Retrain if it is time to. Raises OSError where the child cannot be started."""
        fallen, drift = self._live()
        now_s = self._clock_s()
        since_s = now_s - self._began_s
        rested = since_s >= rest_s(self._refusals, self._every_s) and now_s - self._started_s >= _REST_S
        signs = Signs(self._written() - self._rows_before, since_s, not rested, fallen, drift)
        if why := due(signs, every_s=self._every_s, rows=self._rows):
            self._began_s, self._rows_before = now_s, self._written()
            await self.retrain(why)
            if (past := await self._look_back(0)) is not None:
                self._refusals = past.refusals

    async def retrain(self, why: str) -> None:
        """Run the child to its end and say what came of it."""
        _LOG.info("retraining: %s", why)
        said = self._state / "models" / "retrain.log"
        said.parent.mkdir(parents=True, exist_ok=True)
        said.unlink(missing_ok=True)
        child = Child.start(self.command(), {**os.environ, "OMP_NUM_THREADS": "1"}, said)
        self.running = True
        try:
            status = await child.ended()
        finally:
            self.running = False
            with contextlib.suppress(asyncio.CancelledError):
                await child.stop(_GRACE_S)
        self.runs += 1
        self.failures += status != 0
        self._last = _last_line(said)
        _LOG.log(logging.ERROR if status else logging.INFO, "retraining ended: %s", self._last)

    async def _look_back(self, most_rows: int) -> Past | None:
        try:
            return await asyncio.to_thread(look_back, self._state, most_rows)
        except (OSError, sqlite3.Error, msgspec.DecodeError) as error:
            _LOG.warning("earlier retrainings are not taken into account: %s", error)
            return None

    def command(self) -> list[str]:
        """The child: the `headway` of this installation, whatever lies in the working directory (-P)."""
        command = [sys.executable, "-P", "-m", "headway", "retrain", "--state", str(self._state)]
        return [*command, "--brief", "--nice", str(_NICENESS)]


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "without a word"
