"""`make clients`: public load generators, unchanged, through the proxy before the real vLLM; both must count alike."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import msgspec
from crowd import Served, headway_before
from rich.console import Console
from rich.table import Table

from proxy.app import Headway
from proxy.ranking import Ranking
from training.local_engines import VLLM, Launch, prepare_model, prepare_vllm, serving
from training.local_engines.cache import build_once, cache_root, recipe_key
from training.local_engines.engines import MODEL_NAME
from training.local_engines.install import PYTHON_VERSION, find_python, retarget_scripts

_LOCK = Path(__file__).with_name("clients.lock")
_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_PATIENCE_S = 300
_BOOKED_S = 30.0
"""How long the last answer may take from the client's end of it to the proxy's count."""


class Engine(NamedTuple):
    """An engine that somebody else has started."""

    base_url: str
    model: str = MODEL_NAME


class Told(msgspec.Struct, frozen=True):
    """What a load generator says of its own requests; tokens: None where it does not count them."""

    requests: int
    failed: int
    tokens: int | None = None


class Load(msgspec.Struct, frozen=True):
    """One load: aiperf's options, or none for locust; `gives_up`: clients that go away are part of it."""

    name: str
    options: tuple[str, ...] = ()
    requests: int = 24
    tokens: int = 24
    gives_up: bool = False


_STREAMED = ("--streaming", "--endpoint-type")
LOADS = (
    Load("aiperf chat, streamed", (*_STREAMED, "chat"), requests=48),
    Load("aiperf chat", ("--endpoint-type", "chat")),
    Load("aiperf completions, streamed", (*_STREAMED, "completions")),
    Load("aiperf responses, streamed", (*_STREAMED, "responses")),
    Load("aiperf messages, streamed", (*_STREAMED, "messages")),
    Load(
        "aiperf chat, half given up",
        (
            *(*_STREAMED, "chat", "--extra-inputs", "ignore_eos:true"),
            *("--request-cancellation-rate", "50", "--request-cancellation-delay", "0.3"),
        ),
        # Longer than the patience of those who go, on any machine.
        tokens=200,
        gives_up=True,
    ),
    Load("locust"),
)


class Outcome(msgspec.Struct):
    """What the generator and the proxy counted for one load."""

    name: str
    right: bool
    exit_code: int
    told: Told
    proxy: dict[str, int]
    proxy_tokens: int
    p50_ms: dict[str, float]


def main(arguments: list[str] | None = None) -> int:
    """Run the loads that are named, or all; returns 0 where both sides counted alike in each."""
    names = [load.name for load in LOADS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loads", nargs="*", metavar="LOAD", help=f"of {'; '.join(names)}")
    parser.add_argument("--engine", metavar="URL", help="one that runs already, instead of a real vLLM")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write this table there too")
    options = parser.parse_args(arguments)
    if unknown := set(options.loads) - set(names):
        parser.error(f"no load is called {', '.join(sorted(unknown))}")
    tools, model = prepare_tools(), prepare_model()
    loads = [load for load in LOADS if load.name in (options.loads or names)]
    started = serving(Launch(prepare_vllm(), model)) if options.engine is None else nullcontext()
    with started as running:
        engine = running or Engine(options.engine)
        outcomes = [asyncio.run(_send(load, engine, tools, model)) for load in loads]
    _show(outcomes, options.engine or f"vLLM {VLLM.version} on the CPU")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes), indent=2))
    return 0 if all(outcome.right for outcome in outcomes) else 1


def prepare_tools() -> Path:
    """The `bin` folder of the generators' own environment, installed on first use beside the engines'."""
    lock = _LOCK.read_text()
    target = cache_root() / f"clients-{recipe_key(PYTHON_VERSION, lock)}"

    def build(partial: Path) -> None:
        subprocess.run(
            [sys.executable, "-m", "uv", "venv", "-q", "--python", find_python(), partial], check=True
        )
        install = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--python"]
        subprocess.run([*install, partial / "bin" / "python", "-r", _LOCK], check=True)
        retarget_scripts(partial, target)

    return build_once(target, build) / "bin"


async def _send(load: Load, engine: Served, tools: Path, model: Path) -> Outcome:
    """One load through a proxy of its own, as `headway serve` sets it up."""
    ranking = Ranking()
    assert ranking.load()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        defaults = {"estimator": ranking, "self_prediction": "auto"}
        async with headway_before(engine, folder / "state", **defaults) as headway:
            tool = _aiperf if load.options else _locust
            exit_code, told, p50_ms = await tool(load, headway.url, tools, model, folder)
            await _until(lambda: sum(headway.status().outcomes.values()) >= told.requests)
            counted, tokens = headway.status().outcomes, _output_tokens(headway)
    right = _agree(load, told, counted, tokens) and exit_code == 0
    return Outcome(load.name, right, exit_code, told, counted, tokens, p50_ms)


def _agree(load: Load, told: Told, counted: dict[str, int], tokens: int) -> bool:
    """Whether the proxy counted what the generator did, no request more and none less."""
    if sum(counted.values()) != told.requests or (load.options and told.requests != load.requests):
        return False
    succeeded = told.requests - told.failed
    if load.gives_up:
        # Who gives up while the answer's last bytes are under way was answered, for all the proxy can see.
        return (
            told.failed > 0
            and counted.keys() <= {"completed", "client_gone"}
            and (succeeded <= counted.get("completed", 0))
        )
    same_tokens = told.tokens is None or told.tokens == tokens
    return told.failed == 0 and counted == {"completed": succeeded} and same_tokens


Result = tuple[int, Told, dict[str, float]]


async def _aiperf(load: Load, url: str, tools: Path, model: Path, folder: Path) -> Result:
    options = ["profile", "--model", MODEL_NAME, "--url", url, "--tokenizer", str(model), *load.options]
    options += ["--request-count", str(load.requests), "--concurrency", "8", "--random-seed", "1"]
    options += ["--isl", "48", "--osl", str(load.tokens), "--use-server-token-count", "--ui", "none"]
    options += ["--no-server-metrics", "--no-gpu-telemetry", "--no-auto-plot"]
    options += ["--output-artifact-dir", str(folder / "report")]
    exit_code = await _run([str(tools / "aiperf"), *options], folder)
    report = json.loads((folder / "report" / "profile_export_aiperf.json").read_bytes())
    succeeded = int(_average(report, "request_count"))
    told = Told(
        int(_average(report, "completed_request_count")),
        sum(error["count"] for error in report["error_summary"]),
        int(_average(report, "total_usage_completion_tokens")),
    )
    assert succeeded == told.requests - told.failed, report["error_summary"]
    times = ("time_to_first_token", "inter_token_latency", "request_latency")
    return exit_code, told, {name: round(report[name]["p50"], 1) for name in times if name in report}


def _average(report: dict[str, dict[str, float]], name: str) -> float:
    return report.get(name, {}).get("avg", 0.0)


async def _locust(load: Load, url: str, tools: Path, model: Path, folder: Path) -> Result:
    options = ["-f", str(_LOCUSTFILE), "--headless", "--users", "8", "--spawn-rate", "8", "--host", url]
    # Whoever is being answered when the time is up is answered to the end, so that both sides count it.
    options += ["--run-time", "20s", "--stop-timeout", "120", "--only-summary"]
    report = folder / "locust"
    exit_code = await _run([str(tools / "locust"), *options, "--json-file", str(report)], folder)
    (entries,) = [json.loads(file.read_bytes()) for file in folder.glob("locust*.json")]
    asked = [entry for entry in entries if entry["method"] == "POST"]
    told = Told(sum(entry["num_requests"] for entry in asked), sum(entry["num_failures"] for entry in asked))
    return exit_code, told, {}


async def _run(command: Sequence[str], folder: Path) -> int:
    """Run a generator to its end; what it prints is shown where it fails."""
    # Offline, aiperf takes a tokenizer's folder for a name on a hub; with a folder it asks no hub anyway.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))
    }
    with (folder / "printed").open("w+b") as printed:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, cwd=folder, stdout=printed, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(_PATIENCE_S):
                exit_code = await process.wait()
        except TimeoutError:
            process.kill()
            exit_code = await process.wait()
        if exit_code:
            printed.seek(0)
            sys.stderr.write(printed.read().decode(errors="replace")[-4000:])
    return exit_code


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_BOOKED_S):
        while not condition():
            await asyncio.sleep(0.02)


def _output_tokens(headway: Headway) -> int:
    value = headway.metrics.registry.get_sample_value("headway_output_tokens_total")
    return int(value or 0)


def _show(outcomes: Sequence[Outcome], engine: str) -> None:
    table = Table("load", "right", "it counted", "failed", "tokens", "Headway counted", "tokens", "p50, ms")
    table.title = engine
    for one in outcomes:
        told, right = one.told, "yes" if one.right else "[bold red]NO[/]"
        proxy = ", ".join(f"{name} {count}" for name, count in one.proxy.items())
        times = ", ".join(f"{name} {value:g}" for name, value in one.p50_ms.items())
        tokens = "" if told.tokens is None else str(told.tokens)
        cells = (str(told.requests), str(told.failed), tokens, proxy, str(one.proxy_tokens), times)
        table.add_row(one.name, right, *cells)
    Console(width=180).print(table)


if __name__ == "__main__":
    sys.exit(main())
