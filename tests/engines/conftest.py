"""Real engines for the tests that need them: installed on first use, one alive at a time, started seldom."""

import time
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from crowd import SLOTS

from training.local_engines import (
    SGLANG,
    VLLM,
    Launch,
    RunningEngine,
    prepare_model,
    prepare_sglang,
    prepare_vllm,
    serving,
    start_engine,
)

QUEUE = 6
"""What an engine with a short queue takes, waiting and running; SGLang: waiting."""
_SLOTS = str(SLOTS)
_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
_FLAGS = {
    "vllm": (*VLLM.default_flags, "--max-num-seqs", _SLOTS, *_TOOLS),
    "vllm-fcfs": (*VLLM.report_flags, "--max-num-seqs", _SLOTS),
    "vllm-short-queue": (*VLLM.default_flags, "--max-num-seqs", _SLOTS, "--max-num-queued-reqs", str(QUEUE)),
    "sglang": (*SGLANG.default_flags, "--default-priority-value", "0", "--max-running-requests", _SLOTS),
    "sglang-plain": (
        *SGLANG.report_flags,
        *("--max-running-requests", _SLOTS, "--max-queued-requests", str(QUEUE)),
    ),
}
_TALLY = pytest.StashKey[Counter[str]]()
_STARTS = pytest.StashKey[list[str]]()
_BEGAN_S = pytest.StashKey[float]()


class EngineUnderTest:
    """A real engine under a name of the table above; it can be killed and started again at the same address."""

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


@pytest.fixture(scope="session")
def real(request: pytest.FixtureRequest) -> Iterator[EngineUnderTest]:
    """The engine that a test names: `@on("vllm")`."""
    name: str = request.param
    starts = request.config.stash[_STARTS]
    starts.append(name)
    if name.startswith("vllm"):
        launch = Launch(prepare_vllm(), prepare_model(), _FLAGS[name])
    else:
        launch = Launch(prepare_sglang(), prepare_model(), _FLAGS[name], extra_path=Path(__file__).parent)
    with serving(launch) as running:
        under_test = EngineUnderTest(name, running, starts)
        yield under_test
        under_test.stop()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Counter[str]:
    """Requests answered, by client; shown at the end."""
    return request.config.stash[_TALLY]


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count."""
    config.stash[_TALLY] = Counter()
    config.stash[_STARTS] = []
    config.stash[_BEGAN_S] = time.monotonic()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """All tests of one engine together: pytest itself goes by a parameter's place in its list, not by its name."""
    yield
    order = list(_FLAGS)

    def place(item: pytest.Item) -> int:
        spec = getattr(item, "callspec", None)
        return order.index(spec.params["real"]) if spec is not None and "real" in spec.params else -1

    items.sort(key=place)


def pytest_report_header() -> str:
    """Which engines are tested."""
    return f"engines: vLLM {VLLM.version}, SGLang {SGLANG.version}, on the CPU"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """How often an engine was started, and how many requests each real client had answered."""
    starts = config.stash[_STARTS]
    if not starts:
        return
    terminalreporter.section("engines")
    terminalreporter.line(
        f"vLLM {VLLM.version}, SGLang {SGLANG.version}: {len(starts)} starts ({', '.join(starts)}) in "
        f"{(time.monotonic() - config.stash[_BEGAN_S]) / 60:.1f} minutes"
    )
    for client, count in sorted(config.stash[_TALLY].items()):
        terminalreporter.line(f"{client}: {count} requests")
