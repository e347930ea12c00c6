"""Real engines on this machine's CPU (vLLM, SGLang) with a small real model: for tests, `demo` and benchmarks.

They install themselves from package registries into the user's cache, each in its own environment, once.
"""

from training.local_engines.engines import SGLANG, VLLM, Engine
from training.local_engines.errors import (
    EngineDiedError,
    EngineStartError,
    InstallError,
    LocalEngineError,
    UnsupportedMachineError,
)
from training.local_engines.install import Install, prepare_model, prepare_sglang, prepare_vllm
from training.local_engines.process import Launch, RunningEngine, serving, start_engine

__all__ = [
    "SGLANG",
    "VLLM",
    "Engine",
    "EngineDiedError",
    "EngineStartError",
    "Install",
    "InstallError",
    "Launch",
    "LocalEngineError",
    "RunningEngine",
    "UnsupportedMachineError",
    "prepare_model",
    "prepare_sglang",
    "prepare_vllm",
    "serving",
    "start_engine",
]
