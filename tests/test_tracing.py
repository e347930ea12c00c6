"""What traces is an extra: nothing of it where it is off, one clear line where it is asked for and cannot be had."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness import CHAT, ask_raw, chat, post, proxy_before

import headway as package
from proxy.app import Headway
from proxy.configuration import load_settings
from proxy.settings import SettingsError
from training.emulator import EmulatedEngine

ROOT = Path(package.__file__).parent
CONTEXT = {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "a=1",
    "baggage": "c=3",
}


async def test_off_leaves_the_trace_to_client_and_engine(engine: EmulatedEngine, headway: Headway) -> None:
    """The headers of a trace cross the proxy untouched."""
    await ask_raw(headway, post(CHAT, chat(), *(f"{name}: {value}" for name, value in CONTEXT.items())))
    received = {name.lower(): value for name, value in engine.received[-1].headers.items()}
    assert received.items() >= CONTEXT.items()


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, from the repository's root."""
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_off_imports_nothing() -> None:
    """`headway serve` without the setting has not even looked at what traces (redis-py looks for metrics)."""
    code = "import sys, proxy.serve; print(sys.modules.keys() & {'proxy.spans', 'opentelemetry.sdk.trace.export'})"
    assert run(code).stdout == "set()\n"


SERVE = "import sys, headway; {} sys.exit(headway.main(['serve', '--engine', 'http://127.0.0.1:9', *sys.argv[1:]]))"


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    """And nothing is served: whoever asked for spans would miss them."""
    flags = ["--otel-endpoint", "http://127.0.0.1:9", "--port", "0", "--state", str(tmp_path)]
    done = run(SERVE.format("sys.modules['opentelemetry.exporter'] = None;"), *flags)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'headway[otel]'" in done.stderr


@pytest.mark.parametrize(
    "wrong", ["collector:4318", "http://", "http://:4318", "http://me:pw@x:4318", "grpc://x:1"]
)
def test_an_endpoint_that_is_none_is_refused(wrong: str) -> None:
    """At once, by its name, and without quoting what may be a password."""
    with pytest.raises(SettingsError, match=r"the flags.*otel_endpoint") as refused:
        load_settings({"engine": ["http://127.0.0.1:9"], "otel_endpoint": wrong}, {})
    assert "pw" not in str(refused.value)


async def test_a_wrong_variable_of_the_sdk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read at the start, so that is when it is refused."""
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000000")
    with pytest.raises(SettingsError, match=r"OTEL_.*max_export_batch_size"):
        async with proxy_before("http://127.0.0.1:9", otel_endpoint="http://127.0.0.1:9"):
            pass
