"""Each rendered container as a process, before the emulated engine: the chart's values really work together."""

import argparse
import contextlib
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
from logged_traffic import stream_log

from predictor.redis_address import RedisAddress
from proxy import sidecar_patch

from . import tools
from .kubeapi.patching import strategic_merge
from .kubelet import Node
from .local_pods import PATIENCE_S, QUICK, Ports, engine_pod, free_ports, gateway, helm_test, stack
from .rendering import IMAGE, Manifest, only, render


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


@pytest.mark.parametrize("right", [True, False], ids=["password", "wrong password"])
async def test_gateway_with_the_internal_redis(right: bool, tmp_path: Path) -> None:
    """As rendered, the proxy gets into Redis and logs there; shut out, it serves all the same, and says so."""
    port, engine = free_ports(2)
    sets = (f"redis.port={port}", f"gateway.engines={{http://127.0.0.1:{engine}}}", *Ports().sets(), *QUICK)
    node = Node(
        [*render(*sets, example="gateway-urls"), engine_pod(engine)], tmp_path, [tools.redis_folder()]
    )
    async with (
        node.running("StatefulSet", "demo-headway-redis") as redis_pod,
        node.running("Pod", f"engine-{engine}"),
        redis.Redis(port=port, password=node.secret("demo-headway-redis")["password"]) as client,
    ):
        await redis_pod.container("redis").wait_for("readinessProbe", PATIENCE_S)
        if not right:
            await client.config_set("requirepass", "another")
        async with node.running("Deployment", "demo-headway") as pod:
            await pod.container("headway").wait_for("readinessProbe", PATIENCE_S)
            status, said = await helm_test(node)
            assert status == 0, said
        assert ("it refuses the password" in pod.container("headway").tail()) is not right
        assert await client.xlen("headway:traffic") == (1 if right else 0)


async def test_the_job_that_retrains(tmp_path: Path) -> None:
    """As rendered it reads what proxies logged in Redis and publishes there; with nothing to learn from it fails."""
    (port,) = free_ports(1)
    manifests = render(f"redis.port={port}", "retrain.enabled=true", example="gateway-urls")
    template = only(manifests, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]
    job = {"kind": "Pod", "metadata": {"name": "retrain"}, "spec": template["spec"]}
    node = Node([*manifests, job], tmp_path, [tools.redis_folder()])
    password = node.secret("demo-headway-redis")["password"]
    async with (
        node.running("StatefulSet", "demo-headway-redis") as redis_pod,
        redis.Redis(port=port, password=password) as client,
    ):
        await redis_pod.container("redis").wait_for("readinessProbe", PATIENCE_S)
        for rows, expected in ((0, 1), (400, 0)):
            if rows:
                address = RedisAddress(f"redis://127.0.0.1:{port}", password=password)
                await stream_log(address, tmp_path, rows)
            shutil.rmtree(tmp_path / "retrain", ignore_errors=True)
            pod = node.pod("Pod", "retrain")
            assert await pod.run(2 * PATIENCE_S) == expected, pod.mains[0].tail()
            assert pod.mains[0].wrote_outside_its_volumes() == []
            assert bool(await client.get("headway:role:champion")) == bool(rows)


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
