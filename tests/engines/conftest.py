"""Real engines for the tests that need them: installed on first use, one alive at a time, started seldom."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from crowd import SLOTS

from training.local_engines import VLLM, Launch, RunningEngine, prepare_model, prepare_vllm, serving

_FLAGS = {
    "vllm": (*VLLM.default_flags, "--max-num-seqs", str(SLOTS)),
    "vllm-fcfs": (*VLLM.report_flags, "--max-num-seqs", str(SLOTS)),
}


class OneEngine:
    """Starts the engine that is asked for, after ending another one; two would share the cores."""

    def __init__(self) -> None:
        self._name = ""
        self._engine: RunningEngine | None = None
        self._stack = ExitStack()

    def use(self, name: str) -> RunningEngine:
        """The engine of that name, running."""
        if self._engine is None or name != self._name or not self._engine.alive:
            self.stop()
            launch = Launch(prepare_vllm(), prepare_model(), _FLAGS[name])
            self._engine = self._stack.enter_context(serving(launch))
            self._name = name
        return self._engine

    def stop(self) -> None:
        """End whichever runs."""
        self._engine = None
        self._stack.close()


@pytest.fixture(scope="session")
def engines() -> Iterator[OneEngine]:
    """The one engine of this session."""
    one = OneEngine()
    yield one
    one.stop()


@pytest.fixture
def vllm(engines: OneEngine) -> RunningEngine:
    """The real vLLM with priority scheduling and four slots."""
    return engines.use("vllm")


@pytest.fixture
def vllm_fcfs(engines: OneEngine) -> RunningEngine:
    """The real vLLM as it comes: first come, first served, every priority ignored."""
    return engines.use("vllm-fcfs")
