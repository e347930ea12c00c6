"""`make doctor-matrix`: doctor before real engines, each started right or wrong in one way, and what it found."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
from dropping_router import dropping_router
from rich.console import Console
from rich.table import Table

from training.local_engines import SGLANG, VLLM, Launch, prepare_model, prepare_sglang, prepare_vllm, serving

_HERE = Path(__file__).parent
_KEY = "the-engines-key"
_MOST_S = 20.0
"""Longer than this nobody waits for a doctor: from the command to its exit, on a machine that does nothing else."""


class Case(msgspec.Struct, frozen=True):
    """One way to start an engine, and the finding that doctor must come to; None: all is well."""

    engine: str
    flags: tuple[str, ...]
    finding: str | None = None
    flag: str = ""
    key: str | None = None
    router: bool = False


_MID = ("--default-priority-value", "4")
CASES = {
    "vllm-good": Case("vllm", VLLM.default_flags),
    "vllm-router-drops-priority": Case("vllm", VLLM.default_flags, "order", "--engine", router=True),
    "vllm-fcfs": Case("vllm", VLLM.report_flags, "order", "--scheduling-policy priority"),
    "vllm-no-prompt-tokens-details": Case(
        "vllm", VLLM.priority_flags, "cached tokens", "--enable-prompt-tokens-details"
    ),
    "vllm-no-prefix-caching": Case(
        "vllm",
        (*VLLM.default_flags, "--no-enable-prefix-caching"),
        "prefix cache",
        "--enable-prefix-caching",
    ),
    "vllm-wrong-key": Case(
        "vllm", (*VLLM.default_flags, "--api-key", _KEY), "key", "--engine-api-key-file", key="wrong"
    ),
    "sglang-good": Case("sglang", (*SGLANG.default_flags, *_MID)),
    "sglang-no-priority": Case(
        "sglang", SGLANG.report_flags, "priority setting", "--enable-priority-scheduling"
    ),
    "sglang-preemption": Case(
        "sglang",
        tuple(flag for flag in (*SGLANG.default_flags, *_MID) if flag != "--disable-priority-preemption"),
        "preemption",
        "--disable-priority-preemption",
    ),
    "sglang-no-cache-report": Case(
        "sglang",
        tuple(flag for flag in (*SGLANG.default_flags, *_MID) if flag != "--enable-cache-report"),
        "cached tokens",
        "--enable-cache-report",
    ),
}


class Outcome(msgspec.Struct):
    """What came of one case."""

    name: str
    right: bool
    exit_code: int
    seconds: float
    said: str


def main(arguments: list[str] | None = None) -> int:
    """Run the cases that are named, or all; returns 0 where doctor was right in each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep each report there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write this table there too")
    options = parser.parse_args(arguments)
    outcomes = []
    for name, together in _by_start(options.cases or list(CASES)):
        outcomes += _run(name, together, options.save)
    _show(outcomes)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes), indent=2))
    return 0 if all(outcome.right for outcome in outcomes) else 1


def _by_start(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The cases that one start of an engine serves, together."""
    starts: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name in names:
        starts.setdefault((CASES[name].engine, CASES[name].flags), []).append(name)
    return [(engine, cases) for (engine, _), cases in starts.items()]


def _run(engine: str, names: list[str], save: Path | None) -> list[Outcome]:
    install = prepare_vllm() if engine == "vllm" else prepare_sglang()
    extra_path = _HERE if engine == "sglang" else None
    launch = Launch(install, prepare_model(), CASES[names[0]].flags, extra_path=extra_path)
    with serving(launch) as running:
        return [asyncio.run(_examine(name, running.base_url, save)) for name in names]


async def _examine(name: str, url: str, save: Path | None) -> Outcome:
    case = CASES[name]
    async with AsyncExitStack() as stack:
        if case.router:
            url = await stack.enter_async_context(dropping_router(url))
        command = [
            sys.executable,
            str(_HERE.parent.parent / "headway.py"),
            "doctor",
            "--engine",
            url,
            "--json",
        ]
        if case.key is not None:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory()), "key")
            file.write_text(case.key)
            command += ["--engine-api-key-file", str(file)]
        began_s = time.monotonic()
        doctor = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await doctor.communicate()
        seconds = round(time.monotonic() - began_s, 1)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        (save / f"{name}.json").write_bytes(output)
    return _judge(name, case, doctor.returncode or 0, seconds, json.loads(output))


def _judge(name: str, case: Case, exit_code: int, seconds: float, report: dict[str, Any]) -> Outcome:
    wrong = [found for found in report["findings"] if found["verdict"] == "bad"]
    said = "; ".join(f"{found['name']}: {found['flag']}" for found in wrong) or report["verdict"]
    if case.finding is None:
        right = exit_code == 0
    else:
        found = [one for one in wrong if one["name"] == case.finding and case.flag in (one["flag"] or "")]
        # One fault is planted: whoever is told of two would look for the wrong one.
        right = exit_code == 1 and len(found) == 1 and len(wrong) == 1
    return Outcome(name, right and seconds <= _MOST_S, exit_code, seconds, said)


def _show(outcomes: Sequence[Outcome]) -> None:
    versions = f"vLLM {VLLM.version}, SGLang {SGLANG.version}, on the CPU"
    table = Table("engine", "right", "exit", "seconds", "what doctor said", title=versions)
    for one in outcomes:
        right = "yes" if one.right else "[bold red]NO[/]"
        table.add_row(one.name, right, str(one.exit_code), f"{one.seconds:g}", one.said)
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main())
