"""What doctor finds: one line each, and what they come to."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """GOOD and BAD are proved; NOTE is worth knowing and no fault."""

    GOOD = "good"
    BAD = "bad"
    UNPROVEN = "not proven"
    NOTE = "note"


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. `flag`: what to add to the engine's command line or doctor's, or a command with it."""

    name: str
    verdict: Verdict
    text: str
    flag: str | None = None


class Report(msgspec.Struct, frozen=True):
    """The whole report. `exit_code`: 0 good, 1 bad, 2 not proven."""

    engine: str
    kind: str
    version: str | None
    model: str | None
    seconds: float
    verdict: Verdict
    exit_code: int
    findings: list[Finding]


def verdict_of(findings: Sequence[Finding]) -> tuple[Verdict, int]:
    """What the findings come to, and the exit status that says so."""
    verdicts = {finding.verdict for finding in findings}
    if Verdict.BAD in verdicts:
        return Verdict.BAD, 1
    if Verdict.UNPROVEN in verdicts:
        return Verdict.UNPROVEN, 2
    return Verdict.GOOD, 0


def good(name: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(name, Verdict.GOOD, text)


def bad(name: str, text: str, flag: str | None = None) -> Finding:
    """It is not, and `flag` mends it."""
    return Finding(name, Verdict.BAD, text, flag)


def unproven(name: str, text: str, flag: str | None = None) -> Finding:
    """Nobody knows."""
    return Finding(name, Verdict.UNPROVEN, text, flag)


def note(name: str, text: str, flag: str | None = None) -> Finding:
    """Worth knowing."""
    return Finding(name, Verdict.NOTE, text, flag)
