"""Every decision about a model, with its figures, one JSON line each; and what these lines say of the past."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Final

import msgspec

from predictor.order import Order
from predictor.registry import journal_path, models_directory

_MOST_SHOWN_BYTES: Final = 64 << 20
RETRAIN: Final = "retrain"


class BusyError(Exception):
    """Another process holds the lock; the message says what to do."""


class Outcome(StrEnum):
    """What became of a candidate."""

    PUBLISHED = "published"
    SHADOWED = "shadowed"
    REFUSED = "refused"
    ROLLED_BACK = "rolled back"
    SHADOW_ENDED = "shadow ended"


class Rival(msgspec.Struct, frozen=True):
    """What the candidate had to beat, on the same held-out requests.

    `tau_b` is the rival's; `difference` the candidate's less the rival's, with its 95% `interval`; `gain_s` what
    the rival's order takes off FCFS's mean TTFT in replay. `better`: the candidate wins on both counts.
    """

    name: str
    tau_b: float
    difference: float
    interval: tuple[float, float]
    gain_s: float
    better: bool


class Figures(msgspec.Struct, frozen=True):
    """The candidate on held-out requests: tau-b with its 95% interval, and replayed mean TTFT in seconds."""

    tau_b: float
    interval: tuple[float, float]
    fcfs_ttft_s: float
    gain_s: float


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the journal. `artifact` and `replaced` are ids; None is the ranker in the wheel.

    `newest` names the latest request that was looked at, so that the same log is not worked through twice.
    """

    action: str
    outcome: Outcome
    reason: str
    at: str = ""
    artifact: str | None = None
    replaced: str | None = None
    trained_on: int = 0
    held_out: int = 0
    newest: str = ""
    figures: Figures | None = None
    rivals: tuple[Rival, ...] = ()
    order: Order | None = None
    seconds: float = 0.0


def write_decision(state: Path, decision: Decision) -> Decision:
    """Append to the journal, on the disk when this returns; gives the decision with its time. Raises OSError."""
    with recorded(state, decision) as dated:
        return dated


@contextmanager
def recorded(state: Path, decision: Decision) -> Iterator[Decision]:
    """Append to the journal, on the disk before the body runs; taken out again where the disk or the body fails.

    Whoever writes holds the registry's lock: two at once would take out each other's lines. Raises OSError.
    """
    dated = msgspec.structs.replace(decision, at=datetime.now(UTC).isoformat(timespec="seconds"))
    path = journal_path(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered: closing must not write again what the disk refused and we took out.
    with path.open("a+b", buffering=0) as journal:
        # Whoever was killed in mid-line must not spoil the next one.
        end = journal.seek(0, os.SEEK_END)
        whole = end == 0 or _last_byte(journal.fileno(), end) == b"\n"
        try:
            _write_all(journal, (b"" if whole else b"\n") + msgspec.json.encode(dated) + b"\n")
            os.fsync(journal.fileno())
            yield dated
        except BaseException:
            journal.truncate(end)
            raise


def read_decisions(state: Path) -> list[Decision]:
    """All decisions, oldest first; lines that a crash cut short are left out. Raises OSError."""
    path = journal_path(state)
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes()[-_MOST_SHOWN_BYTES:].splitlines():
        try:
            found.append(msgspec.json.decode(line, type=Decision))
        except msgspec.DecodeError:
            continue
    return found


def journal_lines(state: Path) -> list[bytes]:
    """The journal as it is written, one JSON line each. Raises OSError."""
    path = journal_path(state)
    return path.read_bytes().splitlines() if path.exists() else []


def write_lines(state: Path, lines: Sequence[bytes]) -> None:
    """Let the journal be these lines. Raises OSError."""
    path = journal_path(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.write_bytes(b"".join(line + b"\n" for line in lines))
    aside.replace(path)


def worked_through(decisions: Sequence[Decision], champion: str | None) -> set[str]:
    """`newest` of all logs that a retraining has made something of.

    A process that was killed between its line and the pointer has not: whom the last line publishes does not serve.
    """
    last = decisions[-1] if decisions else None
    killed = last is not None and last.outcome is Outcome.PUBLISHED and last.artifact != champion
    done = decisions[:-1] if killed else decisions
    return {one.newest for one in done if one.action == RETRAIN and one.newest}


def champions_before(decisions: list[Decision], champion: str | None) -> list[str | None]:
    """Who served before the present champion, the latest last; the wheel's ranker (None) was the first."""
    stack: list[str | None] = [None]
    for one in decisions:
        if one.outcome is Outcome.PUBLISHED:
            # Where a process was killed between a line and its pointer, whom that line names never served.
            _back_to(stack, one.replaced)
            if one.artifact != stack[-1]:
                stack.append(one.artifact)
        elif one.outcome is Outcome.ROLLED_BACK:
            _back_to(stack, one.artifact)
    _back_to(stack, champion)
    return stack[:-1]


def _back_to(stack: list[str | None], artifact: str | None) -> None:
    """Make `artifact` the top: whoever came after it is forgotten, and it is added where nobody knew it."""
    if artifact in stack:
        while stack[-1] != artifact:
            stack.pop()
    else:
        stack.append(artifact)


@contextmanager
def locked(state: Path, name: str, *, wait: bool) -> Iterator[None]:
    """Hold the lock file `name`; it is free again when this process ends, however that is.

    Raises BusyError where another process holds it and `wait` is false, OSError where it cannot be made.
    """
    path = models_directory(state) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BusyError(f"another one is at work on {path.parent}; try again when it has ended") from None
        yield


def _write_all(journal: FileIO, line: bytes) -> None:
    """A disk that fills up may take the beginning, and refuses the rest with an OSError."""
    rest = memoryview(line)
    while rest:
        rest = rest[journal.write(rest) :]


def _last_byte(number: int, end: int) -> bytes:
    return os.pread(number, 1, end - 1)
