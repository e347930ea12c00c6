"""What each engine needs to run on a CPU: its module, its flags, its environment, how it says that it is ready."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MODEL_NAME = "smollm2"
"""The name under which the engines serve the model."""


@dataclass(frozen=True)
class Engine:
    """One engine of one version.

    `cpu_flags` always come first; the flags a caller gives come after them and win (argparse: the last one
    does). `environment` values may name `{root}` (the install), `{cpus}` (this process's CPUs, "0,1") and
    `{n_cpus}`.
    """

    name: str
    version: str
    module: str
    model_flag: str
    ready_path: str
    cpu_flags: tuple[str, ...]
    report_flags: tuple[str, ...]
    priority_flags: tuple[str, ...]
    environment: Mapping[str, str]
    needs_on_path: str = ""

    @property
    def default_flags(self) -> tuple[str, ...]:
        """Honour priorities and report what Headway measures."""
        return (*self.report_flags, *self.priority_flags)


VLLM = Engine(
    name="vllm",
    version="0.32.0",
    # The `vllm` script of the CPU package dies of its own name (PackageNotFoundError: vllm).
    module="vllm.entrypoints.openai.api_server",
    model_flag="--model",
    ready_path="/health",
    cpu_flags=(
        *("--max-model-len", "4096", "--dtype", "bfloat16"),
        # Compiled, the 135M model is no faster on two cores and takes three times as long to start.
        "--enforce-eager",
        *("--max-num-seqs", "8"),
        # On a CPU the default is 128: too coarse to see prefixes being reused by short prompts.
        *("--block-size", "32"),
    ),
    report_flags=("--enable-prompt-tokens-details", "--enable-per-request-metrics"),
    priority_flags=("--scheduling-policy", "priority"),
    environment={
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
        # `auto` keeps one core back; on two cores all of them are a third faster at 8 sequences.
        "VLLM_CPU_OMP_THREADS_BIND": "{cpus}",
        "LD_PRELOAD": "{root}/lib/libiomp5.so",
        # Compiling needs a C++ compiler and stalls the first request with log-probabilities by 7 s.
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    },
)

SGLANG = Engine(
    name="sglang",
    version="0.5.23",
    module="sglang.launch_server",
    model_flag="--model-path",
    # Not /health: it sleeps a second and injects a request.
    ready_path="/ready",
    cpu_flags=(
        *("--device", "cpu", "--dtype", "bfloat16"),
        *("--max-total-tokens", "8192", "--mem-fraction-static", "0.3"),
        *("--max-running-requests", "8", "--disable-overlap-schedule"),
        # Its idle scheduler spins otherwise: one of two cores gone, with nothing to do.
        "--sleep-on-idle",
    ),
    report_flags=("--enable-cache-report", "--enable-metrics"),
    priority_flags=(
        *("--enable-priority-scheduling", "--schedule-low-priority-values-first"),
        "--disable-priority-preemption",
        *("--retraction-policy", "priority"),
    ),
    environment={
        "SGLANG_USE_CPU_ENGINE": "1",
        "OMP_NUM_THREADS": "{n_cpus}",
        # Threads that spin while they wait make an answer 5 times slower once anything else wants a core.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
    },
    needs_on_path="sgl_kernel",
)

ENGINES = {engine.name: engine for engine in (VLLM, SGLANG)}


def engine_command(engine: Engine, python: Path, model: Path, port: int, flags: Sequence[str]) -> list[str]:
    """The command line that serves `model` on loopback."""
    return [
        *(str(python), "-m", engine.module, engine.model_flag, str(model)),
        *("--served-model-name", MODEL_NAME, "--host", "127.0.0.1", "--port", str(port)),
        *engine.cpu_flags,
        *flags,
    ]


def engine_environment(
    engine: Engine, root: Path, cpus: Collection[int], inherited: Mapping[str, str], extra_path: Path | None
) -> dict[str, str]:
    """The engine's environment: ours, over what it inherits, less what would lead its imports astray."""
    leading_astray = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    places = {"root": root, "cpus": ",".join(map(str, sorted(cpus))), "n_cpus": len(cpus)}
    environment = {name: value for name, value in inherited.items() if name not in leading_astray}
    environment |= {name: value.format(**places) for name, value in engine.environment.items()}
    if extra_path is not None:
        environment["PYTHONPATH"] = str(extra_path.resolve())
    return environment


def available_cpus() -> set[int]:
    """The CPUs that this process may run on."""
    return os.sched_getaffinity(0)
