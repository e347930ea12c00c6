"""How real engines are started for the tests, by name, and a handle that can be killed and started again."""

from dataclasses import replace

from crowd import SLOTS

from training.local_engines import SGLANG, VLLM, RunningEngine, start_engine

QUEUE = 6
"""What an engine with a short queue takes, waiting and running; SGLang: waiting."""
_SLOTS = str(SLOTS)
_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
FLAGS = {
    "vllm": (*VLLM.default_flags, "--max-num-seqs", _SLOTS, *_TOOLS),
    "vllm-fcfs": (*VLLM.report_flags, "--max-num-seqs", _SLOTS),
    "vllm-short-queue": (*VLLM.default_flags, "--max-num-seqs", _SLOTS, "--max-num-queued-reqs", str(QUEUE)),
    "sglang": (*SGLANG.default_flags, "--default-priority-value", "0", "--max-running-requests", _SLOTS),
    "sglang-plain": (
        *SGLANG.report_flags,
        *("--max-running-requests", _SLOTS, "--max-queued-requests", str(QUEUE)),
    ),
}


class EngineUnderTest:
    """A real engine under a name of that table; it can be killed and started again at the same address."""

    def __init__(self, name: str, running: RunningEngine, starts: list[str]) -> None:
        self.name = name
        self.kind = name.partition("-")[0]
        self._running = running
        self._starts = starts

    @property
    def base_url(self) -> str:
        """Where it serves."""
        return self._running.base_url

    @property
    def port(self) -> int:
        """The port of that."""
        return self._running.port

    @property
    def model(self) -> str:
        """The model's name in requests."""
        return self._running.model

    def kill(self) -> None:
        """kill -9, with all that it has started."""
        self._running.kill()

    def start_again(self) -> None:
        """A new one under the same address; blocks until it is ready."""
        self._starts.append(self.name)
        self._running = start_engine(replace(self._running.launch, port=self.port))

    def stop(self) -> None:
        """End it."""
        self._running.stop()
