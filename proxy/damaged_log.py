"""A traffic log that cannot be read any more is set aside for whoever wants to look at it: a few, and not for ever."""

import contextlib
import logging
import sqlite3
from pathlib import Path
from typing import Final

_LOG: Final = logging.getLogger("headway.traffic")
_MOST_KEPT: Final = 3
_FILES: Final = ("", "-wal", "-shm")


def set_aside(path: Path, error: sqlite3.Error) -> None:
    """Rename a damaged log and say so; raises OSError where it cannot be renamed."""
    last = max((number for number, _ in _numbered(path)), default=0)
    aside = Path(f"{path}.broken-{last + 1}")
    for suffix in _FILES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    _LOG.error("%s cannot be read (%s): moved to %s, a new log begins", path, error, aside)


def forget_aside(path: Path, before_s: float, keep_bytes: int) -> None:
    """Delete what was written for the last time before `before_s` (Unix time), and of the rest all but the newest few:
    one, and those that together with it take no more than `keep_bytes`."""
    taken_bytes = 0
    for place, (_, aside) in enumerate(sorted(_numbered(path), reverse=True)):
        try:
            status = aside.stat()
            taken_bytes += status.st_size
            crowded = place >= _MOST_KEPT or (place > 0 and taken_bytes > keep_bytes)
            if crowded or status.st_mtime < before_s:
                for suffix in _FILES:
                    Path(f"{aside}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("%s, a damaged traffic log, cannot be deleted: %s", aside, error)


def _numbered(path: Path) -> list[tuple[int, Path]]:
    """What was set aside, with its number; the highest is the newest."""
    start = f"{path.name}.broken-"
    found = ((aside.name.removeprefix(start), aside) for aside in path.parent.glob(f"{start}*"))
    return [(int(number), aside) for number, aside in found if number.isdecimal()]
