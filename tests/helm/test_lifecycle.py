"""Real helm 3.17 and 4 install, upgrade, roll back, test and uninstall the chart, against an in-memory API."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import tools
from .kubeapi.kinds import ADMISSION, BUILT_IN
from .kubeapi.server import ApiServer
from .rendering import CHART, IMAGE, only, render

NAMESPACE = "prod"


class Cluster:
    """One server and one helm that talks to it."""

    def __init__(self, server: ApiServer, helm: str, folder: Path) -> None:
        self.server = server
        self._helm = str(tools.helm(helm))
        self._env = {
            "KUBECONFIG": str(server.kubeconfig(folder / "kubeconfig")),
            "HOME": str(folder),
            "PATH": "/usr/bin:/bin",
        }

    def helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run helm to its end."""
        command = [self._helm, "-n", NAMESPACE, *arguments]
        return subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=90, check=False)

    def must(self, *arguments: str) -> str:
        """Run helm; AssertionError with its words where it fails."""
        done = self.helm(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def secret(self, name: str, **data: str) -> None:
        """What an operator does beforehand with kubectl."""
        kubectl = [str(tools.kubectl()), "-n", NAMESPACE, "create", "secret", "generic", name]
        values = [f"--from-literal={key}={value}" for key, value in data.items()]
        subprocess.run([*kubectl, *values], env=self._env, capture_output=True, check=True, timeout=60)


@pytest.fixture(params=["helm3", "helm4"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A fresh cluster with every operator, under each helm."""
    with ApiServer() as server:
        yield Cluster(server, request.param, tmp_path)


def example(name: str) -> list[str]:
    return ["-f", str(CHART / "examples" / f"{name}.yaml")]


def test_install_upgrade_rollback_test_uninstall(cluster: Cluster) -> None:
    """A release lives its whole life, and each step leaves in the cluster what the chart renders for it."""
    cluster.secret("hugging-face", token="x")
    chart = ["demo", str(CHART), *example("stack-sglang"), "--wait", "--timeout", "30s"]
    cluster.must("install", *chart)
    first = cluster.server.items("Deployment", NAMESPACE)["demo-headway"]["spec"]
    password = cluster.server.items("Secret", NAMESPACE)["demo-headway-redis"]["data"]
    cluster.must("upgrade", *chart, "--set", "engine.args={--tp=2}", "--set", "config.window=8")
    upgraded = cluster.server.items("Deployment", NAMESPACE)["demo-headway"]["spec"]
    rendered = render("engine.args={--tp=2}", "config.window=8", example="stack-sglang")
    assert upgraded["template"] == only(rendered, "Deployment")["spec"]["template"]
    assert upgraded["template"] != first["template"]
    assert cluster.server.items("Secret", NAMESPACE)["demo-headway-redis"]["data"] == password
    cluster.must("rollback", "demo", "1", "--wait", "--timeout", "30s")
    assert cluster.server.items("Deployment", NAMESPACE)["demo-headway"]["spec"] == first
    cluster.must("test", "demo", "--timeout", "30s")
    assert [entry["revision"] for entry in json.loads(cluster.must("history", "demo", "-o", "json"))] == [
        1,
        2,
        3,
    ]
    cluster.must("uninstall", "demo", "--wait", "--timeout", "30s")
    for kind in ("Deployment", "StatefulSet", "Service", "CronJob", "ScaledObject", "PodMonitor"):
        assert cluster.server.items(kind, NAMESPACE) == {}, kind


def test_what_was_learned_outlives_the_release(cluster: Cluster) -> None:
    """Uninstalling deletes everything but the claim that holds traffic log and artifacts."""
    cluster.must("install", "demo", str(CHART), *example("stack"))
    cluster.must("uninstall", "demo")
    assert list(cluster.server.items("PersistentVolumeClaim", NAMESPACE)) == ["demo-headway"]
    assert cluster.server.items("Deployment", NAMESPACE) == {}


def test_inject_installs_policy_and_service(cluster: Cluster) -> None:
    """Mode inject adds no workload: configuration and Service, and unless a patch does it, policy and binding."""
    cluster.must("install", "demo", str(CHART), *example("inject-by-patch"))
    assert cluster.server.items("MutatingAdmissionPolicy") == {}
    cluster.must("upgrade", "demo", str(CHART), *example("inject"))
    assert list(cluster.server.items("MutatingAdmissionPolicy")) == ["prod-demo-headway"]
    assert list(cluster.server.items("MutatingAdmissionPolicyBinding")) == ["prod-demo-headway"]
    assert cluster.server.items("Deployment", NAMESPACE) == {}
    assert list(cluster.server.items("Service", NAMESPACE)) == ["demo-headway"]


def test_gateway_installs_with_its_secret(cluster: Cluster) -> None:
    """The gateway with an external Redis installs once its Secret is there, and is refused by name before."""
    chart = ["demo", str(CHART), *example("gateway")]
    refused = cluster.helm("install", *chart)
    assert refused.returncode != 0
    assert 'there is no Secret "headway-redis" in namespace "prod": create it first' in refused.stderr
    assert cluster.server.items("Deployment", NAMESPACE) == {}
    cluster.secret("headway-redis", url="rediss://:x@redis.example:6380/0")
    cluster.must("install", *chart)
    assert "demo-headway" in cluster.server.items("HorizontalPodAutoscaler", NAMESPACE)
    assert "demo-headway" in cluster.server.items("PrometheusRule", NAMESPACE)


def test_modes_can_be_changed_by_upgrade(cluster: Cluster) -> None:
    """A release may move from stack to gateway; what the new mode lacks is removed."""
    cluster.must("install", "demo", str(CHART), *example("stack"))
    cluster.must("upgrade", "demo", str(CHART), *example("gateway-urls"))
    pod = cluster.server.items("Deployment", NAMESPACE)["demo-headway"]["spec"]["template"]["spec"]
    assert [container["name"] for container in pod["containers"]] == ["headway"]
    assert not pod.get("initContainers")


def test_operators_absent(tmp_path: Path) -> None:
    """Without its CRD an object is refused before anything is installed, in one sentence."""
    with ApiServer(kinds=(*BUILT_IN, *ADMISSION)) as server:
        cluster = Cluster(server, "helm4", tmp_path)
        chart = ["install", "demo", str(CHART), *example("stack"), "--set", "metrics.podMonitor.enabled=true"]
        refused = cluster.helm(*chart)
        assert (
            "does not know monitoring.coreos.com/v1/PodMonitor: install its operator first" in refused.stderr
        )
        assert server.items("Service", NAMESPACE) == {}


def test_old_cluster(tmp_path: Path) -> None:
    """A cluster without native sidecars is refused by its version."""
    with ApiServer("1.28.4", BUILT_IN) as server:
        refused = Cluster(server, "helm4", tmp_path).helm("install", "demo", str(CHART), "--set", IMAGE)
        assert "requires kubeVersion: >=1.29.0-0" in refused.stderr


def test_the_server_refuses_what_kubernetes_would(cluster: Cluster) -> None:
    """The server under these tests is worth them: a duplicated variable and an unknown field do not pass."""
    chart = [str(CHART), *example("stack")]
    twice = cluster.helm(
        "install", "one", *chart, "--set", "proxy.env[0].name=A", "--set", "proxy.env[1].name=A"
    )
    assert "duplicate entries for key" in twice.stderr
    unknown = cluster.helm(
        "install", "two", *chart, "--set-json", 'proxy.env=[{"name":"A","valueFrom":{"sekretKeyRef":{}}}]'
    )
    assert "sekretKeyRef" in unknown.stderr
