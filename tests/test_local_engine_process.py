"""Running engines: the command line, the environment, and the process, with a small server as the engine."""

import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from training.local_engines import (
    SGLANG,
    VLLM,
    EngineDiedError,
    EngineStartError,
    Install,
    Launch,
    serving,
    start_engine,
)
from training.local_engines.engines import engine_command, engine_environment

FAKE_ENGINE = """
import http.server, os, pathlib, signal, subprocess, sys
starts = pathlib.Path(os.environ["FAKE_DIR"]) / "starts"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
print("fake engine", *sys.argv[1:], flush=True)
child = subprocess.Popen(["sleep", "600"])
(starts.parent / "child").write_text(str(child.pid))
if "--die" in sys.argv and len(starts.read_text()) <= int(os.environ["FAKE_DEATHS"]):
    print("cannot allocate memory", flush=True)
    sys.exit(int(sys.argv[sys.argv.index("--die") + 1]))

def terminate(*_):
    print("terminated", flush=True)
    if "--stubborn" not in sys.argv:
        os._exit(0)

signal.signal(signal.SIGTERM, terminate)

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" and "--never-ready" not in sys.argv else 503)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Ready).serve_forever()
"""


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """How to start a server that looks like an engine and has a child process, as engines do."""
    root = tmp_path / "install"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "fake_engine.py").write_text(FAKE_ENGINE)
    engine = replace(VLLM, module="fake_engine", environment={})
    env = {"FAKE_DIR": str(tmp_path), "FAKE_DEATHS": "0"}
    return Launch(
        Install(engine, root), tmp_path, (), env, tmp_path / "path", log_dir=tmp_path, ready_timeout_s=60
    )


def starts(launch: Launch) -> int:
    """How often the engine was started."""
    return len((launch.model / "starts").read_text())


def child(launch: Launch) -> int:
    """The process id of the engine's own child."""
    return int((launch.model / "child").read_text())


def ended(pid: int) -> bool:
    """Whether the process is gone (or a zombie that nobody has reaped) within a while."""
    for _ in range(400):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_the_callers_flags_follow_ours_and_win() -> None:
    """The engines' parsers take the last of a repeated flag."""
    command = engine_command(VLLM, Path("/env/bin/python"), Path("/model"), 8000, ["--max-num-seqs", "32"])
    assert command[:3] == ["/env/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert " --host 127.0.0.1 --port 8000 " in " ".join(command)
    values = [command[i + 1] for i, word in enumerate(command) if word == "--max-num-seqs"]
    assert values == ["8", "32"]


def test_default_flags_make_priorities_count_and_report_what_is_measured() -> None:
    """Without `flags` an engine is one that Headway can order; without the priority flags it is FCFS."""
    assert "--scheduling-policy" in VLLM.default_flags
    assert "--scheduling-policy" not in VLLM.report_flags
    assert "--enable-prompt-tokens-details" in VLLM.report_flags
    assert "--enable-priority-scheduling" in SGLANG.default_flags
    assert "--disable-priority-preemption" in SGLANG.default_flags


def test_the_environment_names_this_install_and_these_cpus_and_nothing_astray() -> None:
    """Templates are filled in, the inherited import path is dropped; ours wins over what is inherited."""
    inherited = {
        "PYTHONPATH": "/elsewhere",
        "VIRTUAL_ENV": "/v",
        "HOME": "/me",
        "VLLM_CPU_KVCACHE_SPACE": "40",
    }
    environment = engine_environment(VLLM, Path("/env"), {3, 1}, inherited, None)
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "1,3"
    assert environment["LD_PRELOAD"] == "/env/lib/libiomp5.so"
    assert environment["HOME"] == "/me"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & environment.keys()
    assert engine_environment(SGLANG, Path("/env"), {0, 1}, {}, Path("/x"))["PYTHONPATH"] == "/x"


def test_an_engine_serves_until_the_end_of_the_block_and_takes_its_children_with_it(launch: Launch) -> None:
    """Ready when the block begins; afterwards neither the server nor what it started runs."""
    with serving(launch) as engine:
        with urllib.request.urlopen(engine.base_url + "/health", timeout=30) as answer:
            assert answer.status == 200
        assert engine.alive
        assert "--served-model-name smollm2" in engine.log_tail()
    assert engine.log_tail().endswith("terminated")
    assert engine.wait() == 0
    assert ended(child(launch))
    engine.stop()  # harmless when repeated
    assert starts(launch) == 1


def test_an_engine_that_ignores_sigterm_is_killed(launch: Launch) -> None:
    """It is asked first and given its time; then the group goes."""
    engine = start_engine(replace(launch, flags=["--stubborn"]))
    engine.stop(grace_s=3.0)
    assert engine.log_tail().endswith("terminated")
    assert engine.wait() == -signal.SIGKILL
    assert ended(child(launch))


def test_a_killed_engine_can_be_started_again_where_it_was(launch: Launch) -> None:
    """Sudden death takes the whole group; the same launch on the same port serves again."""
    engine = start_engine(launch)
    engine.kill()
    assert ended(child(launch))
    with serving(replace(launch, port=engine.port)) as again:
        assert again.base_url == engine.base_url
        assert again.alive


def test_an_engine_that_dies_while_starting_is_started_once_more(launch: Launch) -> None:
    """One unlucky start does not fail a whole run."""
    unlucky = replace(launch, flags=["--die", "1"], env={**launch.env, "FAKE_DEATHS": "1"})
    with serving(unlucky) as engine:
        assert engine.alive
    assert starts(launch) == 2


def test_an_engine_that_dies_again_is_reported_with_the_end_of_its_log(launch: Launch) -> None:
    """At once, not after the time-out, with its status, and with its children gone."""
    with pytest.raises(
        EngineDiedError, match=r"(?s)ended with status 1 while starting.*cannot allocate memory"
    ):
        start_engine(replace(launch, flags=["--die", "1"], env={**launch.env, "FAKE_DEATHS": "9"}))
    assert starts(launch) == 2
    assert ended(child(launch))


def test_refused_flags_are_not_tried_twice(launch: Launch) -> None:
    """Status 2 is the parser's: the same flags would be refused again."""
    with pytest.raises(EngineDiedError, match="status 2"):
        start_engine(replace(launch, flags=["--die", "2"], env={**launch.env, "FAKE_DEATHS": "9"}))
    assert starts(launch) == 1


def test_an_engine_that_is_not_ready_in_time_is_stopped_and_reported(launch: Launch) -> None:
    """The time-out names the log and leaves nothing running."""
    with pytest.raises(EngineStartError, match="was not ready after 2 s"):
        start_engine(replace(launch, flags=["--never-ready"], ready_timeout_s=2))
    assert ended(child(launch))


def test_a_port_in_use_is_refused_before_anything_starts(launch: Launch) -> None:
    """Or another server's readiness would be taken for ours."""
    with (
        serving(launch) as engine,
        pytest.raises(EngineStartError, match=f"port {engine.port} cannot be used"),
    ):
        start_engine(replace(launch, port=engine.port))
    assert starts(launch) == 1


def test_sglang_without_its_stand_in_is_refused_with_the_reason(launch: Launch, tmp_path: Path) -> None:
    """Its compiled kernels are in no registry: the caller gives the folder that replaces them."""
    sglang = replace(launch, install=Install(replace(SGLANG, module="fake_engine"), launch.install.root))
    with pytest.raises(EngineStartError, match="needs sgl_kernel on its path"):
        start_engine(sglang)


START_AND_HANG = """
import pickle, sys, time
from training.local_engines import start_engine
engine = start_engine(pickle.loads(bytes.fromhex(sys.argv[1])))
print(engine.pid, flush=True)
time.sleep(600)
"""


def test_an_engine_ends_with_the_process_that_started_it_even_if_that_is_killed(launch: Launch) -> None:
    """SIGKILL runs no clean-up code; the engine's gigabytes must go all the same."""
    command = [sys.executable, "-c", START_AND_HANG, pickle.dumps(launch).hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        os.kill(starter.pid, signal.SIGKILL)
    assert ended(pid)
    assert ended(child(launch))
