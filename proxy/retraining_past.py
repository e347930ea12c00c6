"""What earlier retrainings left: when the last one decided, what was logged since, how many were refused."""

import contextlib
import itertools
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec

from predictor.registry import journal_path
from predictor.traffic_store import read_records

# Some hundred decisions.
_TAIL_BYTES: Final = 1 << 18
# Rows are decoded to be counted: a second of a thread's time, where the settings ask for very many.
_MOST_ROWS: Final = 100_000
_RETRAIN: Final = "retrain"
_REFUSED: Final = "refused"


class _Decided(msgspec.Struct, frozen=True):
    """A line of the journal, as far as it matters here. `newest`: "<arrival_us>:<id>" of the last request read."""

    action: str
    outcome: str
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    newest: str = ""


class Past(msgspec.Struct, frozen=True):
    """`since_s`: Unix time of the last retraining's decision, else of the first logged request, None without either.

    `new_rows`: logged since that retraining read the log. `refusals`: the latest retrainings, all in a row refused.
    """

    since_s: float | None
    new_rows: int
    refusals: int


def look_back(state: Path, most_rows: int) -> Past:
    """Counts at most `most_rows`; of the journal the end is read. Blocks, so off the event loop.

    Raises OSError, sqlite3.Error or msgspec.DecodeError where journal or log cannot be read.
    """
    decisions = _decisions(state)
    last = next((one for one in reversed(decisions) if one.action == _RETRAIN), None)
    arrivals_us = _arrivals_us(state / "traffic.db", 0 if last is None else _after_us(last), most_rows)
    first_s = arrivals_us[0] / 1e6 if arrivals_us else None
    refused = itertools.takewhile(lambda one: one.outcome == _REFUSED, reversed(decisions))
    return Past(
        since_s=first_s if last is None else last.at.timestamp(),
        new_rows=len(arrivals_us),
        refusals=sum(one.action == _RETRAIN for one in refused),
    )


def _decisions(state: Path) -> list[_Decided]:
    """The latest, oldest first, without lines that a crash cut short, or that we have cut."""
    try:
        with journal_path(state).open("rb") as journal:
            journal.seek(max(0, journal.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = journal.read().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):
            found.append(msgspec.json.decode(line, type=_Decided))
    return found


def _after_us(decided: _Decided) -> int:
    arrival_us = decided.newest.partition(":")[0]
    return int(arrival_us) + 1 if arrival_us.isdecimal() else 0


def _arrivals_us(log: Path, since_us: int, most: int) -> list[int]:
    if not log.exists():
        return []
    records = itertools.islice(read_records(log, since_us), min(most, _MOST_ROWS))
    return [one.arrival_us for one in records]
