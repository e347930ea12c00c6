"""The engine that a comparison runs on: the emulated one in a process of its own, or the real vLLM."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import Progress

from training.local_engines import VLLM, Launch, prepare_model, prepare_vllm, serving

_START_S: Final = 30.0
# As the lengths in training/data/lengths.jsonl were recorded, but greedy: each arm then gets about the same answers,
# in float32 the very same.
# (A `seed` will not do: on a CPU, vLLM 0.32 dies of a seeded request.)
_SAMPLING: Final = {"temperature": 0.0, "repetition_penalty": 1.1}


class EngineSilentError(RuntimeError):
    """An engine of a comparison ended or does not answer."""


class RunningEngine(msgspec.Struct, frozen=True):
    """Where an engine listens and how to ask it.

    `body` goes into every request; `seeded`: request i also carries `seed: i`, so that each arm gets the same
    answers (real engines are asked greedily instead). `slots` is how many sequences run at once.
    """

    name: str
    url: str
    model: str
    slots: int
    body: dict[str, Any]
    seeded: bool


@contextlib.contextmanager
def emulated_engine(seed: int, slots: int = 16) -> Iterator[RunningEngine]:
    """The emulated engine with its demo profile and priority scheduling."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "training.emulator", "--port", str(port), "--profile", "demo"]
    command += ["--scheduling-policy", "priority", "--max-num-seqs", str(slots), "--seed", str(seed)]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        _wait_until_ready(url, process)
        yield RunningEngine("emulated", url, "emulated", slots, {}, seeded=True)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=10)


@contextlib.contextmanager
def real_vllm(slots: int = 16, cpus: str | None = None, dtype: str = "bfloat16") -> Iterator[RunningEngine]:
    """The real vLLM on this machine's CPU, installed on first use. Raises LocalEngineError where it cannot run.

    `cpus`: those that its model computes on, as vLLM has them ("0", "0-3"); None: all. In `dtype` float32 a greedy
    answer is the same in every batch (48 of 48 in length, where bfloat16 repeats three in ten), at half the pace.
    """
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("vLLM", total=1.0)

        def report(text: str, done: float) -> None:
            bar.update(task, description=text, completed=done)

        install = prepare_vllm(report)
        model = prepare_model(report)
    env = {} if cpus is None else {"VLLM_CPU_OMP_THREADS_BIND": cpus}
    flags = (*VLLM.default_flags, "--max-num-seqs", str(slots), "--dtype", dtype)
    launch = Launch(install, model, flags, env=env)
    with serving(launch) as engine:
        yield RunningEngine(
            f"real vLLM {VLLM.version} (CPU)", engine.base_url, engine.model, slots, _SAMPLING, seeded=False
        )


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineSilentError(f"the engine ended at its start, with status {process.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1):  # noqa: S310 - our own URL
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise EngineSilentError(f"the engine at {url} was not ready after {_START_S:g} s")
