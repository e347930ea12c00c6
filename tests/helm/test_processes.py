"""Each rendered container as a process, before the emulated engine: the chart's values really work together."""

import argparse
import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis.asyncio as redis

from proxy import sidecar_patch

from . import tools
from .kubeapi.patching import strategic_merge
from .kubelet import Node, Pod
from .rendering import IMAGE, Manifest, only, render

# Nothing is timed here: this only ends a test that hangs.
PATIENCE_S = 60.0
QUICK = ("test.timeoutSeconds=3", "drainDelaySeconds=1")


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


async def test_stack_answers(tmp_path: Path) -> None:
    """Mode stack as rendered: the engine starts, the pod gets ready, and `helm test` is satisfied."""
    async with stack(tmp_path) as (node, pod):
        status, said = await helm_test(node)
        assert status == 0, said + pod.container("headway").tail()
        assert "x-headway-policy: quantile" in said
        await pod.container("engine").wait_for("livenessProbe", PATIENCE_S)
    for container in (*pod.sidecars, *pod.mains):
        assert container.exit_status == 0, container.tail()
        assert container.wrote_outside_its_volumes() == []


def variable(name: str, value: str) -> tuple[str, Any]:
    """The value that gives the proxy one more environment variable."""
    return "proxy.env", [{"name": name, "value": value}]


PLANTED = {
    "engine elsewhere": (("engine.args", ["--port=0"]), "503"),
    "engine refuses a flag": (("engine.args", ["--no-such-flag"]), "503"),
    "proxy refuses a setting": (variable("HEADWAY_WINDWO", "3"), "refused"),
    "proxy configured otherwise": (variable("HEADWAY_POLICY", "fcfs"), "fcfs, but quantile is configured"),
    "state cannot be written": (variable("HEADWAY_STATE", "/proc/none"), "refused"),
}


@pytest.mark.parametrize(("planted", "reason"), PLANTED.values(), ids=PLANTED)
async def test_stack_with_a_planted_fault_fails(
    planted: tuple[str, Any], reason: str, tmp_path: Path
) -> None:
    """A value that renders and validates, but does not work, makes `helm test` fail for that very reason."""
    manifests = render(IMAGE, "engine.model=emulated", *Ports().sets(), *QUICK, json=planted)
    status, said = await helm_test_of_broken(manifests, tmp_path, ready="configured" in reason)
    assert status != 0
    assert reason in said


async def helm_test_of_broken(
    manifests: list[Manifest], folder: Path, *, ready: bool = False
) -> tuple[int, str]:
    """Run the test pod beside a pod that may not even start; `ready`: it does, and even gets ready."""
    node = Node(manifests, folder)
    pod = node.pod("Deployment", "demo-headway")
    try:
        with contextlib.suppress(TimeoutError):
            await pod.start()
        if ready:
            await pod.container("headway").wait_for("readinessProbe", PATIENCE_S)
        return await helm_test(node)
    finally:
        await pod.stop()


BROKEN_MANIFESTS = {
    "Service selects nothing": lambda m: only(m, "Service")["spec"]["selector"].update(x="y"),
    "Service names no port": lambda m: only(m, "Service")["spec"]["ports"][0].update(targetPort="http"),
    "configuration not mounted": lambda m: only(m, "ConfigMap").update(data={}),
}


@pytest.mark.parametrize("plant", BROKEN_MANIFESTS.values(), ids=BROKEN_MANIFESTS)
async def test_stack_with_a_broken_manifest_fails(plant: Any, tmp_path: Path) -> None:
    """The same for faults in templates: the runner resolves selectors, ports and volumes as a cluster does."""
    manifests = render(IMAGE, "engine.model=emulated", *Ports().sets(), *QUICK)
    plant(manifests)
    status, said = await helm_test_of_broken(manifests, tmp_path)
    assert status != 0
    assert "no answer through" in said


async def test_keys_are_asked_for(tmp_path: Path) -> None:
    """With client keys configured, `helm test` needs its Secret, and then passes."""
    key = {"sha256": hashlib.sha256(b"sesame").hexdigest(), "tenant": "probe"}
    secret = {"kind": "Secret", "metadata": {"name": "probe"}, "stringData": {"api-key": "sesame"}}
    async with stack(tmp_path / "without", json=("config.keys", [key])) as (node, _):
        status, said = await helm_test(node)
        assert status != 0
        assert "401" in said
    async with stack(
        tmp_path / "with", "test.apiKeySecret=probe", json=("config.keys", [key]), more=[secret]
    ) as (
        node,
        _,
    ):
        status, said = await helm_test(node)
        assert status == 0, said


async def test_injected_proxy_answers(tmp_path: Path) -> None:
    """`headway sidecar-patch` on a Deployment of the user's own, with the chart's Service and configuration."""
    ports = Ports()
    manifests = render(*ports.sets(), *QUICK, example="inject-by-patch")
    command = [
        "vllm",
        "serve",
        "emulated",
        "--host=127.0.0.1",
        f"--port={ports.engine}",
        "--scheduling-policy=priority",
    ]
    pod = {"containers": [{"name": "vllm", "command": command, "ports": [{"containerPort": ports.engine}]}]}
    parser = argparse.ArgumentParser()
    sidecar_patch.add_arguments(parser)
    flags = ["--image=i", "--engine-container=vllm", "--release=demo", "--config-map=demo-headway"]
    flags += [f"--engine-port={ports.engine}", f"--port={ports.proxy}", f"--admin-port={ports.admin}"]
    change = sidecar_patch.patch(parser.parse_args([*flags, "--drain-delay-s=0"]))
    spec = strategic_merge(
        {"template": {"metadata": {"labels": {"app": "vllm"}}, "spec": pod}}, change["spec"]
    )
    node = Node([*manifests, {"kind": "Deployment", "metadata": {"name": "vllm"}, "spec": spec}], tmp_path)
    async with node.running("Deployment", "vllm") as running:
        await running.container("headway").wait_for("readinessProbe", PATIENCE_S)
        status, said = await helm_test(node)
        assert status == 0, said
    assert running.container("headway").exit_status == 0


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


async def test_gateway_answers(tmp_path: Path) -> None:
    """Mode gateway as rendered, before two engines."""
    async with gateway(tmp_path) as (node, _):
        status, said = await helm_test(node)
        assert status == 0, said


async def test_gateway_with_a_wrong_engine_fails(tmp_path: Path) -> None:
    """An address where no engine is makes `helm test` fail, and says so."""
    wrong = ["gateway.engines={http://127.0.0.1:9}", "config.engine_wait_s=0"]
    node = Node(render(*Ports().sets(), *QUICK, "redis.kind=none", *wrong, example="gateway-urls"), tmp_path)
    async with node.running("Deployment", "demo-headway") as pod:
        await pod.container("headway").wait_for("startupProbe", PATIENCE_S)
        status, said = await helm_test(node)
        assert status != 0
        assert "503" in said


async def test_internal_redis(tmp_path: Path) -> None:
    """The internal Redis as rendered: ready, closed without the password, and what it holds outlives its pod."""
    (port,) = free_ports(1)
    node = Node(render(f"redis.port={port}", example="gateway-urls"), tmp_path, [tools.redis_folder()])
    password = node.secret("demo-headway-redis")["password"]
    for expected in (None, b"1"):
        async with node.running("StatefulSet", "demo-headway-redis") as pod:
            await pod.container("redis").wait_for("readinessProbe", PATIENCE_S)
            async with redis.Redis(port=port, password=password) as client:
                assert await client.get("published") == expected
                await client.set("published", "1")
            async with redis.Redis(port=port) as stranger:
                with pytest.raises(redis.AuthenticationError):
                    await stranger.ping()
        assert pod.container("redis").wrote_outside_its_volumes() == []


async def answer_of(url: str, tokens: int) -> str:
    """How one streamed answer ended: complete, refused, or cut."""
    body = {"model": "emulated", "messages": [{"role": "user", "content": "Go on."}], "stream": True}
    body |= {"max_tokens": tokens, "ignore_eos": True}
    timeout = aiohttp.ClientTimeout(PATIENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as client,
            client.post(url + "/v1/chat/completions", json=body) as answer,
        ):
            text = await answer.text()
    except aiohttp.ClientError:
        return "cut"
    if answer.status != 200:
        return f"refused {answer.status}"
    return "complete" if text.endswith("data: [DONE]\n\n") and '"error"' not in text else "cut"


async def streams(pod: Pod, count: int) -> list[asyncio.Task[str]]:
    """So many answers of 600 tokens, all inside the proxy or at the engine."""
    asked = [asyncio.create_task(answer_of(url_of(pod), 600)) for _ in range(count)]
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as client:
        in_hand = 0
        while in_hand < count:
            async with client.get(url_of(pod, "headway-admin") + "/headway/status") as answer:
                status = await answer.json()
            in_hand = status["waiting"] + status["running"]
    return asked


def url_of(pod: Pod, port: str = "headway") -> str:
    """Where the pod's proxy listens."""
    return f"http://127.0.0.1:{pod.container('headway').port(port)}"


async def answers_while_stopping(pod: Pod, count: int) -> tuple[list[str], str, str]:
    """Stop the pod under `count` answers: how they ended, what came first just afterwards, and what came last."""
    asked = await streams(pod, count)
    stopping = asyncio.create_task(pod.stop())
    first = last = await answer_of(url_of(pod), 1)
    while last == "complete":
        last = await answer_of(url_of(pod), 1)
    await stopping
    return [await task for task in asked], first, last


async def test_stopping_a_stack_loses_no_answer(tmp_path: Path) -> None:
    """Running and waiting answers end whole; new ones are served at first, then refused; the engine ends first."""
    async with stack(tmp_path, "engine.args={--max-num-seqs=4}") as (_, pod):
        assert await answers_while_stopping(pod, 8) == (["complete"] * 8, "complete", "refused 503")
    engine, proxy = pod.container("engine"), pod.container("headway")
    assert (engine.exit_status, proxy.exit_status) == (0, 0)
    assert engine.ended_at is not None
    assert proxy.ended_at is not None
    assert engine.ended_at < proxy.ended_at


async def test_without_the_hook_answers_would_be_lost(tmp_path: Path) -> None:
    """The same without the engine's preStop hook: so it is the hook that keeps the answers."""
    manifests = render(IMAGE, "engine.model=emulated", *Ports().sets(), *QUICK)
    del only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["lifecycle"]
    node = Node(manifests, tmp_path)
    async with node.running("Deployment", "demo-headway") as pod:
        await pod.container("headway").wait_for("readinessProbe", PATIENCE_S)
        asked = await streams(pod, 4)
        await pod.stop()
        assert [await task for task in asked] == ["cut"] * 4


async def test_stopping_a_gateway_loses_no_answer(tmp_path: Path) -> None:
    """A gateway drains by itself on SIGTERM, after the delay in which it still serves."""
    async with gateway(tmp_path) as (_, pod):
        assert await answers_while_stopping(pod, 8) == (["complete"] * 8, "complete", "refused 503")
