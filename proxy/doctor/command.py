"""`headway doctor --engine URL`: one line per finding, with the flag to add."""

import argparse
import asyncio
import fcntl
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from proxy.configuration import load_settings
from proxy.doctor.examine import examine
from proxy.doctor.findings import Report, Verdict
from proxy.settings import SettingsError
from proxy.upstream import Upstream

_COLOUR: Final = {
    Verdict.GOOD: "green",
    Verdict.BAD: "bold red",
    Verdict.UNPROVEN: "yellow",
    Verdict.NOTE: "dim",
}
_MARK: Final = {Verdict.GOOD: "ok", Verdict.BAD: "BAD", Verdict.UNPROVEN: "?", Verdict.NOTE: "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What doctor can be told."""
    parser.add_argument("--engine", required=True, metavar="URL", help="the engine's base URL")
    parser.add_argument(
        "--engine-kind", choices=["vllm", "sglang", "generic"], help="what it is, if it won't tell"
    )
    parser.add_argument("--engine-api-key-file", metavar="FILE", help="file with the engine's key")
    parser.add_argument(
        "--engine-ca-file", metavar="FILE", help="certificates that the engine's TLS is held against"
    )
    parser.add_argument("--model", help="the model to ask; the first one listed unless given")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument(
        "--force",
        action="store_true",
        help="probe though it has other work, however long that takes",
    )


def run(args: argparse.Namespace) -> int:
    """Examine; returns 0 good, 1 bad, 2 not proven (also for arguments that cannot be used)."""
    try:
        with _alone(args.engine):
            report = asyncio.run(_examine(args))
    except SettingsError as error:
        sys.stderr.write(f"headway: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")
    else:
        show(report, Console(highlight=False, soft_wrap=True))
    return report.exit_code


async def _examine(args: argparse.Namespace) -> Report:
    flags = {"engine": (args.engine,)}
    flags |= {
        name: value
        for name in ("engine_api_key_file", "engine_ca_file")
        if (value := getattr(args, name)) is not None
    }
    settings = load_settings(flags, {})
    api_key = settings.read_api_key()
    upstream = Upstream(settings)
    console = Console(stderr=True)
    try:
        with console.status("") as status:
            return await examine(
                upstream,
                settings.engine[0].rstrip("/"),
                api_key,
                kind=args.engine_kind,
                model=args.model,
                force=args.force,
                progress=lambda text: status.update(f"doctor: {text}"),
            )
    finally:
        await upstream.close()


@contextmanager
def _alone(engine: str) -> Iterator[None]:
    """One doctor at a time for an engine on this machine: two would see each other's probes."""
    name = hashlib.sha256(engine.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f"headway-doctor-{name}.lock")
    with ExitStack() as stack:
        # Another user's, which may only be read, serves as well; one that cannot be had keeps nobody from asking.
        with suppress(OSError):
            file = stack.enter_context(path.open() if path.exists() else path.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def show(report: Report, console: Console) -> None:
    """One line per finding, then what they come to."""
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        mark = f"[{_COLOUR[finding.verdict]}]{_MARK[finding.verdict]:>3}[/]"
        line = f"{mark} {finding.name:<{width}}  {_plain(finding.text)}"
        console.print(line + (f"  → {_plain(finding.flag)}" if finding.flag else ""))
    verdict = f"[{_COLOUR[report.verdict]}]{report.verdict.value}[/]"
    console.print(f"{verdict}: {report.engine}, {report.seconds:g} s")


def _plain(text: str) -> str:
    """Text as it is, though it holds brackets."""
    return text.replace("[", r"\[")
