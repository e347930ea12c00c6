"""Pods of each mode as local processes, for the tests that run and stop them."""

import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from .kubelet import Node, Pod
from .rendering import IMAGE, Manifest, render

# Nothing is timed here: this only ends a test that hangs.
PATIENCE_S: Final = 60.0
QUICK: Final = ("test.timeoutSeconds=3", "drainDelaySeconds=1")


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Ports:
    """The ports of one test, and the values that put them into the chart."""

    def __init__(self) -> None:
        self.proxy, self.admin, self.engine = free_ports(3)

    def sets(self) -> tuple[str, ...]:
        return (
            "proxy.host=127.0.0.1",
            f"proxy.port={self.proxy}",
            f"proxy.adminPort={self.admin}",
            f"engine.port={self.engine}",
            f"inject.port={self.proxy}",
            f"inject.enginePort={self.engine}",
        )


async def helm_test(node: Node) -> tuple[int, str]:
    """Run the test pod; its exit status and what it said."""
    pod = node.pod("Pod", "demo-headway-test")
    status = await pod.run(PATIENCE_S)
    return status, pod.mains[0].tail()


@contextlib.asynccontextmanager
async def stack(
    folder: Path, *sets: str, more: Sequence[Manifest] = (), **options: Any
) -> AsyncIterator[tuple[Node, Pod]]:
    """A running pod of mode stack."""
    manifests = render(IMAGE, "engine.model=emulated", *Ports().sets(), *QUICK, *sets, **options)
    node = Node([*manifests, *more], folder)
    async with node.running("Deployment", "demo-headway") as pod:
        await pod.container("headway").wait_for("readinessProbe", PATIENCE_S)
        yield node, pod


@contextlib.asynccontextmanager
async def gateway(folder: Path, *sets: str) -> AsyncIterator[tuple[Node, Pod]]:
    """Two engines, and a proxy of mode gateway in front of them."""
    engines = free_ports(2)
    urls = ",".join(f"http://127.0.0.1:{port}" for port in engines)
    chosen = (f"gateway.engines={{{urls}}}", "redis.kind=none", *Ports().sets(), *QUICK, *sets)
    node = Node([*render(*chosen, example="gateway-urls"), *map(engine_pod, engines)], folder)
    async with contextlib.AsyncExitStack() as running:
        for port in engines:
            await running.enter_async_context(node.running("Pod", f"engine-{port}"))
        pod = await running.enter_async_context(node.running("Deployment", "demo-headway"))
        await pod.container("headway").wait_for("readinessProbe", PATIENCE_S)
        yield node, pod


def engine_command(port: int) -> list[str]:
    """How somebody else starts an engine."""
    flags = ["--host=127.0.0.1", f"--port={port}", "--scheduling-policy=priority"]
    return ["vllm", "serve", "emulated", *flags, "--enable-prompt-tokens-details"]


def engine_pod(port: int) -> Manifest:
    """An engine that somebody else runs."""
    spec = {"containers": [{"name": "engine", "command": engine_command(port)}]}
    return {"kind": "Pod", "metadata": {"name": f"engine-{port}"}, "spec": spec}
