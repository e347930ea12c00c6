"""`headway run`, its processes: an engine that dies, hangs or never starts, and both end in the right order."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from emulation import CHAT, chat, exactly, until

HEADWAY = str(Path(__file__).parent.parent / "headway.py")
PATIENCE_S = 60.0
STREAM = exactly(300, stream=True)
# Stands in for the interpreter of an environment that has vLLM: whatever it is told to run, it emulates.
PYTHON = """#!{python}
import os, subprocess, sys, time
HELPER = "trap 'echo the helper was told' TERM; echo helper $$; while true; do sleep 0.1; done"
args = sys.argv[1:]
if args[0] == "-c":
    sys.exit(0)
print("flags:", *args, flush=True)
if "--dies" in args:
    print("no such model", flush=True)
    sys.exit(3)
if "--helped" in args:
    subprocess.Popen(["/bin/sh", "-c", HELPER])
if "--sleeps" in args:
    time.sleep(600)
port = args[args.index("--port") + 1]
command = ["-m", "training.emulator", "--port", port, "--profile", "demo", "--scheduling-policy", "priority"]
os.execv(sys.executable, [sys.executable, *command])
"""


class Running:
    """`headway run` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, state: Path) -> None:
        self.process = process
        self.state = state
        self.said = ""

    async def says(self, text: str) -> str:
        """Wait for a line of its log."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self.process.stderr.readline()).decode():
                self.said += line
                if text in line:
                    return line
        raise AssertionError(f"it never said '{text}':\n{self.said}")

    async def url(self) -> str:
        """Where it serves."""
        return (await self.says("serving on ")).split("serving on ")[1].strip()

    def engine_pid(self) -> int:
        """The engine's process, as the log names it last."""
        return int(self.said.rsplit("(pid ", 1)[1].split(")")[0])

    async def ends(self) -> int:
        """Wait for its end; returns the exit status."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            self.said += (await self.process.stderr.read()).decode()
            return await self.process.wait()


@contextlib.asynccontextmanager
async def headway_run(tmp_path: Path, *options: str, engine: tuple[str, ...] = ()) -> AsyncIterator[Running]:
    """Start it with an emulated vLLM."""
    python = tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    command = [sys.executable, HEADWAY, "run", "vllm", "--port", "0", "--state", str(tmp_path), *options]
    process = await asyncio.create_subprocess_exec(
        *(*command, "--engine-python", str(python), "--", *engine), stderr=asyncio.subprocess.PIPE
    )
    try:
        yield Running(process, tmp_path)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


async def test_an_answer_under_way_is_finished_before_the_engine_goes(tmp_path: Path) -> None:
    """SIGTERM: nothing new, the running stream to its end, then the engine; both logs are apart."""
    async with headway_run(tmp_path) as running, aiohttp.ClientSession() as client:
        url = await running.url()
        engine = running.engine_pid()
        async with client.post(url + CHAT, json=STREAM) as answer:
            await answer.content.readany()
            running.process.send_signal(signal.SIGTERM)
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        assert await running.ends() == 0
        assert not alive(engine)
    log = (tmp_path / "vllm.log").read_text()
    assert "--scheduling-policy priority" in log
    assert "flags:" not in running.said
    assert "serving on" not in log


async def test_sighup_reads_the_settings_again_and_cuts_nobody(tmp_path: Path) -> None:
    """As under `headway serve`: another policy is taken over, nonsense is refused, a stream runs on to its end."""
    config = tmp_path / "headway.toml"
    config.write_text('policy = "quantile"\n')
    async with (
        headway_run(tmp_path, "--config", str(config)) as running,
        aiohttp.ClientSession() as client,
    ):
        url = await running.url()
        async with client.post(url + CHAT, json=STREAM) as answer:
            await answer.content.readany()
            for policy, said in (("fcfs", "reloaded: interactive fcfs"), ("shortest", "not reloaded")):
                config.write_text(f'policy = "{policy}"\n')
                running.process.send_signal(signal.SIGHUP)
                await running.says(said)
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        running.process.send_signal(signal.SIGTERM)
        assert await running.ends() == 0
    assert "until a restart" not in running.said


async def test_an_engine_that_dies_is_started_again(tmp_path: Path) -> None:
    """Killed, it is back under the same address, and the proxy has never left."""
    async with headway_run(tmp_path, "--engine-wait-s", "60") as running, aiohttp.ClientSession() as client:
        url = await running.url()
        os.kill(running.engine_pid(), signal.SIGKILL)
        await running.says("it is started again")
        async with client.post(url + CHAT, json=chat(max_tokens=3)) as answer:
            assert answer.status == 200
        running.process.send_signal(signal.SIGTERM)
        assert await running.ends() == 0


async def test_by_policy_the_end_of_the_engine_is_the_end(tmp_path: Path) -> None:
    """--restart never: one clear line, status 1."""
    async with headway_run(tmp_path, "--restart", "never") as running:
        await running.url()
        os.kill(running.engine_pid(), signal.SIGKILL)
        assert await running.ends() == 1
        assert "headway: vllm has ended with status -9" in running.said


async def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    """Its status and the end of its log, without searching for it."""
    async with headway_run(tmp_path, engine=("--dies",)) as running:
        assert await running.ends() == 1
        assert "ended with status 3 while starting" in running.said
        assert "no such model" in running.said


async def test_an_engine_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    """After --ready-timeout seconds, and nothing of it is left."""
    async with headway_run(tmp_path, "--ready-timeout", "2", engine=("--sleeps",)) as running:
        assert await running.ends() == 1
        assert "was not ready after 2 s" in running.said
        assert not alive(running.engine_pid())


async def test_a_signal_while_the_engine_starts_ends_both(tmp_path: Path) -> None:
    """Nobody has to wait for a model to load in order to stop."""
    async with headway_run(tmp_path, engine=("--sleeps",)) as running:
        await running.says("is starting")
        running.process.send_signal(signal.SIGINT)
        assert await running.ends() == 0
        assert not alive(running.engine_pid())


async def test_an_engine_does_not_outlive_a_killed_headway(tmp_path: Path) -> None:
    """SIGKILL leaves no time for anything: the engine ends all the same."""
    async with headway_run(tmp_path) as running:
        await running.url()
        engine = running.engine_pid()
        running.process.kill()
        await until(lambda: not alive(engine))


async def test_the_engine_ends_its_own_helpers(tmp_path: Path) -> None:
    """The signal is for the engine alone (SGLang takes a helper's end for a crash); what it leaves is killed."""
    async with headway_run(tmp_path, engine=("--helped",)) as running:
        await running.url()
        await until(lambda: re.search(r"helper \d+\n", (tmp_path / "vllm.log").read_text()))
        running.process.send_signal(signal.SIGTERM)
        assert await running.ends() == 0
    log = (tmp_path / "vllm.log").read_text()
    assert "was told" not in log
    helper = int(log.split("helper ")[1].split()[0])
    await until(lambda: not alive(helper))


async def test_a_port_that_is_taken_is_known_before_the_engine_starts(tmp_path: Path) -> None:
    """A model takes minutes to load: whoever chose a wrong port learns it at once."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server, headway_run(tmp_path, "--port", str(server.sockets[0].getsockname()[1])) as running:
        assert await running.ends() == 1
        assert "address already in use" in running.said
        assert "is starting" not in running.said


async def test_while_the_engine_starts_the_proxy_says_so(tmp_path: Path) -> None:
    """Alive but not ready, and a request is refused with a clear reason."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    async with (
        headway_run(tmp_path, "--port", str(port), engine=("--sleeps",)) as running,
        aiohttp.ClientSession() as client,
    ):
        await running.says("is starting")
        async with client.get(f"{url}/healthz") as answer:
            assert answer.status == 200
        async with client.get(f"{url}/readyz") as answer:
            assert answer.status == 503
        async with client.post(url + CHAT, json=chat()) as answer:
            assert (await answer.json())["error"]["code"] == "engine_unreachable"


async def test_an_order_without_a_bound_is_said_at_the_start(tmp_path: Path) -> None:
    """Who chooses sjf reads in the log what it costs."""
    async with headway_run(tmp_path, "--policy", "sjf", engine=("--sleeps",)) as running:
        assert "WARNING" in await running.says("sjf has no bound")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tgi"], "invalid choice"),
        (["vllm", "--nonsense"], "unrecognized arguments"),
        (["vllm", "--engine-python", "/nowhere/python"], "No such file"),
        (["vllm", "--engine-python", "/bin/false"], "has no vllm"),
        (["vllm", "--port", "x", "--engine-python", "/bin/true"], "bad configuration"),
    ],
)
async def test_what_cannot_be_run_is_one_clear_line(words: list[str], said: str) -> None:
    """Exit status 2, and nothing is started."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, HEADWAY, "run", *words, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert said in errors.decode()
    assert "Traceback" not in errors.decode()
