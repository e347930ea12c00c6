"""What Headway costs: `python -m bench.overhead`.

One run measures in turns the engine itself, the thinnest pass-through, Headway, and other proxies if named.
Each round visits all arms, every second round backwards, so that the machine's drift falls on all alike. The
engine costs next to nothing and shares a core with the load; the proxy under test has the other to itself.
"""

import argparse
import gc
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from rich.console import Console
from rich.progress import Progress

from bench.cases import SMALL_BYTES, Case, cases, chat_request
from bench.http_reading import HttpError
from bench.load import drive
from bench.peers import PEERS, peer_command
from bench.processes import Server, ServerError, free_port, on_core
from bench.report import print_report
from bench.rows import DIRECT, FLOOR, Failure, Row, make_row
from bench.summary import Measurement

_NOTHING_TO_PREDICT: Final = ("--mode", "engine", "--policy", "fcfs")
_HEADWAY: Final = {
    "headway": (),
    "headway-engine": ("--mode", "engine"),
    "headway-fcfs": _NOTHING_TO_PREDICT,
    "headway-fcfs-nolog": (*_NOTHING_TO_PREDICT, "--traffic-log", "false"),
}
_NEEDED: Final = (DIRECT, FLOOR)
_TABLE_WIDTH: Final = 150

Measured = dict[str, dict[str, list[Measurement]]]


class Report(msgspec.Struct, frozen=True):
    """Everything that a run found out."""

    machine: str
    versions: dict[str, str]
    rows: list[Row]
    failures: list[Failure]
    rss_mb: dict[str, float]


class Bench:
    """The servers of one run, and the turns they take."""

    def __init__(self, scratch: Path, stack: ExitStack, cores: tuple[int | None, int | None]) -> None:
        """`cores`: of the proxy under test, and of engine and load."""
        self._scratch = scratch
        self._stack = stack
        self._proxy_core, self._load_core = cores
        self.arms: dict[str, Server] = {}
        self.failures: list[Failure] = []
        self.measured: Measured = {}

    async def start(self, arms: Iterable[str], peers: Iterable[str], checkouts: Mapping[str, Path]) -> None:
        """Start all servers. Raises ServerError where one does not answer; a peer may fail and is noted."""
        await self._start(DIRECT, "bench.canned_engine", core=self._load_core)
        engine = f"http://127.0.0.1:{self.arms[DIRECT].port}"
        await self._start(FLOOR, "bench.floor", "--engine", engine)
        for name in arms:
            await self._start_headway(name, engine, _HEADWAY[name])
        for name, directory in checkouts.items():
            await self._start_headway(name, engine, _NOTHING_TO_PREDICT, directory)
        for name in peers:
            try:
                await self._start_peer(name, engine)
            except ServerError as error:
                self.failures.append(Failure("all", name, str(error)))

    async def _start(
        self, name: str, module: str, *arguments: str, core: int | None = None, directory: Path | None = None
    ) -> None:
        port = free_port()
        command = [sys.executable, "-m", module, *arguments, "--port", str(port)]
        core = self._proxy_core if core is None else core
        await self._add(name, Server(command, port, self._log(name), core=core, directory=directory))

    async def _start_headway(
        self, name: str, engine: str, flags: Sequence[str], directory: Path | None = None
    ) -> None:
        state = self._scratch / f"state of {name}"
        arguments = ("serve", "--engine", engine, "--state", str(state), *flags)
        await self._start(name, "headway", *arguments, directory=directory)

    async def _start_peer(self, name: str, engine: str) -> None:
        port = free_port()
        scratch = self._scratch / name
        scratch.mkdir()
        peer = peer_command(name, engine, port, scratch)
        server = Server(peer.command, port, self._log(name), core=self._proxy_core, env=peer.env)
        await self._add(name, server)

    async def _add(self, name: str, server: Server) -> None:
        self._stack.enter_context(server)
        await server.answer_to(chat_request(body_bytes=SMALL_BYTES))
        self.arms[name] = server

    def _log(self, name: str) -> Path:
        return self._scratch / f"{name}.log"

    async def measure(self, case: Case, rounds: int, progress: Progress) -> None:
        """Let every arm take its turn in every round; an arm that fails takes no further part in the case."""
        taking_part = [name for name in self.arms if name not in case.waits_by_design]
        results: dict[str, list[Measurement]] = {name: [] for name in taking_part}
        bar = progress.add_task(case.name, total=(rounds + 1) * len(taking_part))
        for turn in range(rounds + 1):
            for name in list(results) if turn % 2 else list(results)[::-1]:
                one = await self._take_turn(name, case)
                progress.advance(bar)
                if one is None:
                    del results[name]
                # The first round warms connections, caches and allocators up.
                elif turn:
                    results[name].append(one)
        self.measured[case.name] = results

    async def _take_turn(self, name: str, case: Case) -> Measurement | None:
        server = self.arms[name]
        gc.collect()
        before_s = server.cpu_s()
        try:
            sample = await drive(server.port, case.load)
        except (HttpError, OSError) as error:
            if name in _NEEDED:
                raise ServerError(f"{case.name}, {name}: {error}") from error
            self.failures.append(Failure(case.name, name, str(error)))
            return None
        return Measurement(sample, server.cpu_s() - before_s)

    def report(self, chosen: Sequence[Case]) -> Report:
        """The figures of all that was measured."""
        rows = [
            make_row(case, arm, self.measured[case.name])
            for case in chosen
            for arm in self.measured[case.name]
        ]
        packages = ("aiohttp", "uvloop", "msgspec", "prometheus-client")
        return Report(
            machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            versions={name: version(name) for name in packages},
            rows=rows,
            failures=self.failures,
            rss_mb={name: server.rss_mb() for name, server in self.arms.items()},
        )


async def _run(
    args: argparse.Namespace, chosen: Sequence[Case], cores: tuple[int | None, int | None], console: Console
) -> Report:
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headway-bench-")))
        bench = Bench(scratch, stack, cores)
        await bench.start(args.arms, args.peers, dict(args.against))
        # The load's own collections must not look like the proxy's.
        gc.disable()
        with Progress(console=console, transient=True) as progress:
            for case in chosen:
                await bench.measure(case, args.rounds or case.rounds, progress)
        return bench.report(chosen)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    args = _parser().parse_args(argv)
    console = Console(stderr=True)
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        console.print("Only one core: proxy and load share it, so the figures say little.")
    cores = (available[0], available[1]) if len(available) > 1 else (None, None)
    chosen = [case for case in cases(quick=args.quick) if not args.cases or case.name in args.cases]
    try:
        with on_core(cores[1]):
            report = uvloop.run(_run(args, chosen, cores, console))
    except ServerError as error:
        console.print(f"bench.overhead: {error}", markup=False)
        return 1
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        print_report(_wide_console(), chosen, report.rows, report.failures, report.rss_mb)
    return 1 if report.failures else 0


def _wide_console() -> Console:
    """Where the output is a file or a pipe there is no width to keep to."""
    return Console() if sys.stdout.isatty() else Console(width=_TABLE_WIDTH)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.overhead", description="Measure what Headway costs."
    )
    names = [case.name for case in cases(quick=True)]
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of every case")
    parser.add_argument("--cases", type=_names(names), default=[], metavar="NAMES", help=", ".join(names))
    parser.add_argument(
        "--arms",
        type=_names(list(_HEADWAY)),
        default=list(_HEADWAY),
        metavar="NAMES",
        help=", ".join(_HEADWAY),
    )
    parser.add_argument("--peers", type=_names(PEERS), default=[], metavar="NAMES", help=", ".join(PEERS))
    parser.add_argument(
        "--against",
        type=_checkout,
        action="append",
        default=[],
        metavar="NAME=DIRECTORY",
        help="another checkout of Headway, measured as headway-fcfs",
    )
    return parser


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"unknown name '{name}': choose from {', '.join(known)}")
        return names

    return parse


def _checkout(text: str) -> tuple[str, Path]:
    name, _, directory = text.partition("=")
    path = Path(directory).resolve()
    if not name or not (path / "headway.py").is_file():
        raise argparse.ArgumentTypeError(f"'{text}': give NAME=DIRECTORY of a checkout of Headway")
    return name, path


if __name__ == "__main__":
    sys.exit(main())
