"""Real engines for the tests that need them: installed on first use, one alive at a time, started seldom."""

import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from crowd import eventually, load_of
from real_engines import FLAGS, EngineUnderTest

from training.local_engines import (
    SGLANG,
    VLLM,
    Launch,
    prepare_model,
    prepare_sglang,
    prepare_vllm,
    serving,
)

_TALLY = pytest.StashKey[Counter[str]]()
_STARTS = pytest.StashKey[list[str]]()
_BEGAN_S = pytest.StashKey[float]()


@pytest.fixture(scope="session")
def real(request: pytest.FixtureRequest) -> Iterator[EngineUnderTest]:
    """The engine that a test names: `@on("vllm")`."""
    name: str = request.param
    starts = request.config.stash[_STARTS]
    starts.append(name)
    if name.startswith("vllm"):
        launch = Launch(prepare_vllm(), prepare_model(), FLAGS[name])
    else:
        launch = Launch(prepare_sglang(), prepare_model(), FLAGS[name], extra_path=Path(__file__).parent)
    with serving(launch) as running:
        under_test = EngineUnderTest(name, running, starts)
        yield under_test
        under_test.stop()


@pytest.fixture(autouse=True)
async def nothing_left_over(request: pytest.FixtureRequest) -> None:
    """Begin when the engine has done with what the test before it left there: it shares slots, queue and batch."""
    if "real" in request.fixturenames:
        engine: EngineUnderTest = request.getfixturevalue("real")

        async def idle() -> bool:
            return await load_of(engine) == (0, 0)

        await eventually(idle)


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
    order = list(FLAGS)

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
