"""A kubelet of our own: runs rendered pods as local processes, with their commands, environment, files, probes.

As on a node: volumes are folders, `$(NAME)` is expanded, native sidecars start first and must pass their
startup probe, a stopping pod runs its preStop hooks, then its main containers end, and only then its sidecars.
A Service is resolved through its selector and its target port. All pods share one address: ports must differ.
"""

import asyncio
import base64
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

Manifest = dict[str, Any]
_SHIMS: Final = Path(__file__).parent / "shims"
_REFERENCE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_TICK_S: Final = 0.05


class Container:
    """One container as a process."""

    def __init__(self, pod: "Pod", spec: Manifest) -> None:
        self.name: str = spec["name"]
        self._pod = pod
        self._spec = spec
        self._process: asyncio.subprocess.Process | None = None
        self.ended_at: float | None = None
        self.log = pod.folder / f"{self.name}.log"
        self._cwd = pod.folder / f"{self.name}.root"
        self._cwd.mkdir()

    @property
    def exit_status(self) -> int | None:
        """None while it runs, and before it was started."""
        return self._process.returncode if self._process else None

    async def start(self) -> None:
        """Start its command; a sidecar also has to pass its startup probe."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv(self._spec.get("command", []) + self._spec.get("args", [])),
                env=self._env(),
                cwd=self._cwd,
                stdout=log,
                stderr=log,
            )
        if self._spec.get("restartPolicy") == "Always":
            await self.wait_for("startupProbe", 60)

    async def wait_for(self, probe: str, timeout_s: float) -> None:
        """Wait until the probe passes; TimeoutError with the log's end where it does not."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._passes(self._spec[probe]):
                    if self.exit_status is not None:
                        raise TimeoutError
                    await asyncio.sleep(_TICK_S)
        except TimeoutError:
            raise TimeoutError(f"{self.name} never passed its {probe}:\n{self.tail()}") from None

    async def _passes(self, probe: Manifest) -> bool:
        if "exec" in probe:
            return await self.execute(probe["exec"]["command"]) == 0
        url = f"http://127.0.0.1:{self.port(probe['httpGet']['port'])}{probe['httpGet']['path']}"
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2)) as client,
                client.get(url) as answer,
            ):
                return answer.status < 400
        return False

    def port(self, name: str | int) -> int:
        """The number of a named port."""
        if isinstance(name, int):
            return name
        return next(int(port["containerPort"]) for port in self._spec["ports"] if port.get("name") == name)

    def has_port(self, name: str | int) -> bool:
        """Whether it declares the port."""
        return any(name in (port.get("name"), port["containerPort"]) for port in self._spec.get("ports", ()))

    async def execute(self, command: list[str]) -> int:
        """Run a command beside its process, as exec probes and hooks do; returns the exit status."""
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._argv(command), env=self._env(), cwd=self._cwd, stdout=log, stderr=log
            )
        return await process.wait()

    async def stop(self, grace_s: float) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace period is over."""
        if self._process is None or self._process.returncode is not None:
            return
        try:
            async with asyncio.timeout(grace_s):
                if hook := self._spec.get("lifecycle", {}).get("preStop"):
                    await self.execute(hook["exec"]["command"])
                self._process.send_signal(signal.SIGTERM)
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self.ended_at = time.monotonic()

    def _argv(self, command: list[str]) -> list[str]:
        env = self._env()
        expanded = [_REFERENCE.sub(lambda match: env.get(match[1], match[0]), part) for part in command]
        return [self._pod.localise(part, self._spec) for part in expanded]

    def _env(self) -> dict[str, str]:
        env: dict[str, str] = {}
        for variable in self._spec.get("env", ()):
            value = variable.get("value", "")
            if "valueFrom" in variable:
                value = self._pod.node.secret_value(variable["valueFrom"]["secretKeyRef"])
            value = _REFERENCE.sub(lambda match: env.get(match[1], match[0]), value)
            env[variable["name"]] = self._pod.localise(value, self._spec)
        # What the images bring: a PATH with Python, headway and the engine's command.
        folders = [_SHIMS, Path(sys.executable).parent, *self._pod.node.tools, "/usr/bin", "/bin"]
        path = os.pathsep.join(map(str, folders))
        return {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"} | env

    def wrote_outside_its_volumes(self) -> list[Path]:
        """Files in its working directory, which would be read-only in the cluster."""
        return list(self._cwd.iterdir())

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:] if self.log.exists() else ""


class Pod:
    """One pod's containers and volumes."""

    def __init__(self, node: "Node", name: str, spec: Manifest, labels: dict[str, str]) -> None:
        self.node = node
        self.labels = labels
        self.folder = node.folder / name
        self.folder.mkdir(parents=True)
        self._spec = spec
        self._volumes = {volume["name"]: self._volume(volume) for volume in spec.get("volumes", ())}
        self.sidecars = [Container(self, sidecar) for sidecar in spec.get("initContainers", ())]
        self.mains = [Container(self, main) for main in spec["containers"]]
        self._write_config_maps()

    def _volume(self, volume: Manifest) -> Path:
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        folder = self.node.folder / "claims" / claim if claim else self.folder / "volumes" / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if secret := volume.get("secret"):
            for key, value in self.node.secret(secret["secretName"]).items():
                (folder / key).write_text(value, encoding="utf-8")
        return folder

    def _write_config_maps(self) -> None:
        """After the volumes have their folders, since configuration names them."""
        for volume in self._spec.get("volumes", ()):
            if name := volume.get("configMap", {}).get("name"):
                for key, text in self.node.find("ConfigMap", name)["data"].items():
                    here = self.localise(text, self._user_of(volume["name"]))
                    (self._volumes[volume["name"]] / key).write_text(here, encoding="utf-8")

    def _user_of(self, volume: str) -> Manifest:
        """The container that mounts the volume."""
        specs: list[Manifest] = [*self._spec.get("initContainers", ()), *self._spec["containers"]]
        return next(s for s in specs if any(m["name"] == volume for m in s.get("volumeMounts", ())))

    def localise(self, text: str, container: Manifest) -> str:
        """Mount paths as this machine has them, Service names as addresses."""
        folders = {m["mountPath"]: str(self._volumes[m["name"]]) for m in container.get("volumeMounts", ())}
        if folders:
            # In one pass, since a folder here may lie below a path that is a mount there.
            paths = "|".join(re.escape(path) for path in sorted(folders, key=len, reverse=True))
            text = re.sub(rf"(?<![\w/])({paths})(?=[/\"\s]|$)", lambda match: folders[match[1]], text)
        return self.node.resolve(text)

    def container(self, name: str) -> Container:
        """The container of that name."""
        return next(c for c in [*self.sidecars, *self.mains] if c.name == name)

    async def start(self) -> None:
        """Sidecars one after the other, then the main containers."""
        for sidecar in self.sidecars:
            await sidecar.start()
        for main in self.mains:
            await main.start()

    async def run(self, timeout_s: float) -> int:
        """Run a pod that ends by itself; returns its exit status."""
        await self.start()
        (main,) = self.mains
        async with asyncio.timeout(timeout_s):
            while main.exit_status is None:
                await asyncio.sleep(_TICK_S)
        return main.exit_status

    async def stop(self) -> None:
        """Main containers first, side by side; sidecars only when all of them have ended."""
        deadline = time.monotonic() + self._spec.get("terminationGracePeriodSeconds", 30)
        await asyncio.gather(*(main.stop(deadline - time.monotonic()) for main in self.mains))
        for sidecar in reversed(self.sidecars):
            await sidecar.stop(max(2.0, deadline - time.monotonic()))


class Node:
    """A release's manifests, and the pods that run of them."""

    def __init__(self, manifests: list[Manifest], folder: Path, tools: Sequence[Path] = ()) -> None:
        """`tools`: folders with commands that images would bring."""
        self._manifests = manifests
        self.folder = folder
        self.tools = tools
        self.pods: list[Pod] = []

    def find(self, kind: str, name: str) -> Manifest:
        """The manifest of that kind and name."""
        return next(m for m in self._manifests if m["kind"] == kind and m["metadata"]["name"] == name)

    def secret(self, name: str) -> dict[str, str]:
        """A Secret's values."""
        manifest = self.find("Secret", name)
        decoded = {key: base64.b64decode(value).decode() for key, value in manifest.get("data", {}).items()}
        return decoded | manifest.get("stringData", {})

    def secret_value(self, reference: Manifest) -> str:
        """One value of a Secret."""
        return self.secret(reference["name"])[reference["key"]]

    def resolve(self, text: str) -> str:
        """Replace each Service's name and port by the address of a pod that it selects."""
        for service in (m for m in self._manifests if m["kind"] == "Service"):
            name = re.escape(service["metadata"]["name"])
            for port in service["spec"]["ports"]:
                pattern = rf"(?<![\w.-]){name}(\.[\w-]+\.svc)?:{port['port']}\b"
                if re.search(pattern, text):
                    text = re.sub(pattern, self._endpoint(service, port), text)
        return text

    def _endpoint(self, service: Manifest, port: Manifest) -> str:
        """Port 9 (discard) where the Service selects nothing, as nothing answers then."""
        target = port.get("targetPort", port["port"])
        for pod in self.pods:
            if service["spec"]["selector"].items() <= pod.labels.items():
                for container in (*pod.sidecars, *pod.mains):
                    if container.has_port(target):
                        return f"127.0.0.1:{container.port(target)}"
        return "127.0.0.1:9"

    def pod(self, kind: str, name: str) -> Pod:
        """A pod of that workload, or that pod; not started."""
        manifest = self.find(kind, name)
        if kind == "Pod":
            pod = Pod(self, name, manifest["spec"], manifest["metadata"].get("labels", {}))
        else:
            template = manifest["spec"]["template"]
            claims = manifest["spec"].get("volumeClaimTemplates", ())
            volumes = [*template["spec"].get("volumes", ()), *map(_claim, claims)]
            spec = template["spec"] | {"volumes": volumes}
            pod = Pod(self, f"{name}-{len(self.pods)}", spec, template["metadata"]["labels"])
        self.pods.append(pod)
        return pod

    @contextlib.asynccontextmanager
    async def running(self, kind: str, name: str) -> AsyncIterator[Pod]:
        """A started pod, which is stopped at the end."""
        pod = self.pod(kind, name)
        try:
            await pod.start()
            yield pod
        finally:
            await pod.stop()


def _claim(template: Manifest) -> Manifest:
    """The volume that a StatefulSet makes of its claim's template."""
    name = template["metadata"]["name"]
    return {"name": name, "persistentVolumeClaim": {"claimName": name}}
