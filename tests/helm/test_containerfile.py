"""The image as far as it can be judged without a container engine."""

import re
import subprocess
from pathlib import Path
from typing import Final

from . import tools
from .rendering import containers, pod_specs, render

ROOT: Final = Path(__file__).parents[2]
LINES: Final = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
_PIN: Final = re.compile(r"^([\w.-]+)==([^ ;\\]+)([^\\]*)", re.MULTILINE)


def instructions(name: str) -> list[str]:
    """The arguments of every such instruction, line continuations joined."""
    return [line.removeprefix(name).strip() for line in LINES if line.startswith(f"{name} ")]


def test_linter_is_satisfied() -> None:
    """hadolint finds nothing but what a comment in the file excuses."""
    done = subprocess.run(
        [tools.hadolint(), ROOT / "Containerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_what_goes_in_is_pinned() -> None:
    """The base image has its full version, each tool its own, and dependencies come from the lock with hashes."""
    (base,) = (value for value in instructions("ARG") if value.startswith("PYTHON="))
    assert re.search(r":3\.\d+\.\d+-slim-\w+$", base)
    assert set(instructions("FROM")) == {"${PYTHON} AS build", "${PYTHON}"}
    install, sync, *_ = instructions("RUN")
    packages = install.split("&&")[0].removeprefix("pip install --no-cache-dir").split()
    assert all("==" in package for package in packages)
    assert "--require-hashes" in sync
    assert "--only-binary :all:" in sync


def test_image_lock_is_part_of_the_lock() -> None:
    """What the image installs is what the tests ran with: run `make lock` where the two differ."""
    image, everything = (
        set(_PIN.findall((ROOT / name).read_text(encoding="utf-8")))
        for name in ("requirements-image.lock", "requirements.lock")
    )
    assert {(name, version) for name, version, _ in image} <= {
        (name, version) for name, version, _ in everything
    }
    assert "pytest" not in {name for name, *_ in image}


def test_every_copied_file_is_let_through() -> None:
    """.dockerignore keeps everything out but what the wheel is made of."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)
    assert "*" in ignored


def test_image_and_chart_agree() -> None:
    """The same user, the same state folder, the command that the chart calls, and a health check."""
    (user,) = instructions("USER")
    (volume,) = instructions("VOLUME")
    (pod, *_) = pod_specs(render(example="gateway-urls"))
    (proxy,) = containers(pod)
    context = proxy["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert volume in [mount["mountPath"] for mount in proxy["volumeMounts"]]
    assert instructions("ENTRYPOINT") == ['["headway"]']
    assert proxy["command"][0] == "headway"
    assert "/healthz" in "".join(
        LINES[next(n for n, line in enumerate(LINES) if line.startswith("HEALTHCHECK"))]
    )
