"""Keeps the length history on disk: read before serving, written every few seconds by a thread."""

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Final

from predictor.history import History
from predictor.history_store import SavedStats, load_history, pack, save_history
from proxy.settings import Settings

_LOG: Final = logging.getLogger("headway.history")
# What a killed process may forget.
_SAVE_EVERY_S: Final = 2.0
# As many keys as a history holds.
_KEEP: Final = 50_000


class HistoryFile:
    """One history and its file. Whatever the disk does costs history, never an answer."""

    def __init__(self, path: Path, history: History) -> None:
        self._path = path
        self._history = history
        self._unsaved: dict[str, SavedStats] = {}
        self._failing = False

    async def load(self) -> None:
        """Take over what was saved; a file that cannot be read is moved aside and a new one begun."""
        try:
            self._history.restore(await asyncio.to_thread(load_history, self._path))
        except sqlite3.OperationalError as error:
            _LOG.error("cannot read %s: %s; the history begins anew", self._path, error)
        except sqlite3.DatabaseError as error:
            aside = self._path.with_name(f"{self._path.name}.broken")
            _LOG.error("%s is damaged (%s): moved to %s, a new history begins", self._path, error, aside)
            self._move_to(aside)

    async def run(self) -> None:
        """Save for ever."""
        while True:
            await asyncio.sleep(_SAVE_EVERY_S)
            await self.save()

    async def save(self) -> None:
        """Write what has changed since the last time; what cannot be written waits for the next."""
        self._unsaved |= {row.key: row for row in pack(self._history.drain_updates())}
        if not self._unsaved:
            return
        rows = list(self._unsaved.values())[-_KEEP:]
        try:
            await asyncio.to_thread(save_history, self._path, rows, _KEEP)
        except (sqlite3.Error, OSError) as error:
            if not self._failing:
                _LOG.error("cannot save the history to %s: %s", self._path, error)
            self._failing = True
            self._unsaved = {row.key: row for row in rows}
            return
        self._failing = False
        self._unsaved.clear()

    def _move_to(self, aside: Path) -> None:
        try:
            for suffix in ("-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            self._path.replace(aside)
        except OSError as error:
            _LOG.error("cannot move %s: %s", self._path, error)


async def remember(settings: Settings, history: History) -> HistoryFile | None:
    """Take over what a predecessor learned; None for a proxy that writes no log, or asks Redis.

    Redis's stream tells a new proxy of the same answers again: they would count twice.
    """
    if not settings.traffic_log or settings.redis is not None:
        return None
    file = HistoryFile(Path(settings.state) / "history.db", history)
    await file.load()
    return file
