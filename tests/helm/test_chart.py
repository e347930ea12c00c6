"""What the chart renders: valid on every Kubernetes it claims, strict in what it takes, short enough to read."""

import statistics
import subprocess
import tomllib
from typing import Any

import kubernetes_validate
import pytest

import headway
from proxy.configuration import load_settings
from proxy.engines.flags import ORDER, ORDER_LINE, REPORTS, EngineName

from . import tools
from .rendering import (
    CHART,
    EXAMPLES,
    OPERATORS,
    POLICIES,
    STACK,
    Manifest,
    containers,
    helm_template,
    only,
    pod_specs,
    render,
)

VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
NAMES = [path.stem for path in EXAMPLES]
CUSTOM = ("monitoring.coreos.com/", "keda.sh/")


def apis_of(version: str) -> tuple[str, ...]:
    """Admission policies are on by default from 1.36."""
    return (*OPERATORS, *POLICIES) if version >= "1.36" else OPERATORS


@pytest.mark.parametrize("helm", ["helm3", "helm4"])
@pytest.mark.parametrize("name", NAMES)
def test_examples_pass_lint(name: str, helm: str) -> None:
    """`helm lint --strict` finds nothing in the chart with any example."""
    command = [str(tools.helm(helm)), "lint", "--strict", "--quiet", str(CHART), "--kube-version", "1.36.0"]
    example = ["-f", str(CHART / "examples" / f"{name}.yaml")]
    off = "metrics.podMonitor.enabled=false,metrics.rules.enabled=false,autoscaling.kind=none,inject.policy=false"
    done = subprocess.run([*command, *example, "--set", off], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_valid_on_every_kubernetes(name: str) -> None:
    """Each example's objects pass the strict schemas of Kubernetes 1.29 to 1.37."""
    for version in VERSIONS:
        if name == "inject" and version < "1.36":
            continue
        for manifest in render(example=name, kubernetes=f"{version}.0", apis=apis_of(version)):
            if not manifest["apiVersion"].startswith(CUSTOM):
                kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_both_helms_render_the_same(name: str) -> None:
    """helm 3.17 and 4 make the same objects of each example."""
    three, four = (
        {(m["kind"], m["metadata"]["name"]): m for m in render(example=name, helm=helm)}
        for helm in ("helm3", "helm4")
    )
    for manifests in (three, four):
        # The generated password is another one each time.
        manifests.pop(("Secret", "demo-headway-redis"), None)
    assert three == four


def test_admission_policies_before_they_were_stable() -> None:
    """Where the cluster has only the beta of MutatingAdmissionPolicy, the beta is what is made."""
    beta = ("admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy",)
    policy = only(render(example="inject", kubernetes="1.34.0", apis=beta), "MutatingAdmissionPolicy")
    kubernetes_validate.validate(policy, "1.34", strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_proxy_reads_what_the_chart_writes(name: str, tmp_path: Any) -> None:
    """`headway serve` takes the rendered configuration and environment as they are."""
    manifests = render(example=name)
    config = tmp_path / "headway.toml"
    config.write_text(only(manifests, "ConfigMap", suffix="headway")["data"]["headway.toml"])
    sidecars = [c for pod in pod_specs(manifests) for c in containers(pod) if c["name"] == "headway"]
    env = {
        variable["name"]: variable.get("value", "redis://127.0.0.1:6379/0")
        for container in sidecars
        for variable in container.get("env", ())
    }
    assert load_settings({}, env, config).state == "/var/lib/headway"


def test_spans_go_where_the_values_say(tmp_path: Any) -> None:
    """A URL under `config` reaches the proxy as it is."""
    manifests = render(*STACK, "config.otel_endpoint=http://collector.observability:4318")
    config = tmp_path / "headway.toml"
    config.write_text(only(manifests, "ConfigMap", suffix="headway")["data"]["headway.toml"])
    assert load_settings({}, {}, config).otel_endpoint == "http://collector.observability:4318"


@pytest.mark.parametrize("verb", ["serve", "retrain"])
def test_commands_exist(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every `headway` command line of the chart names a command and flags that there are."""
    lines = [c["command"] for pod in pod_specs(render(example="gateway")) for c in containers(pod)]
    (command,) = [line for line in lines if line[:2] == ["headway", verb]]
    with pytest.raises(SystemExit, match="0"):
        headway.main([*command[1:], "--help"])
    printed = capsys.readouterr().out
    assert all(flag in printed for flag in command if flag.startswith("--"))


@pytest.mark.parametrize("name", NAMES)
def test_our_containers_satisfy_the_restricted_level(name: str) -> None:
    """Every container of ours, and the internal Redis, meets PSA `restricted` with a read-only root."""
    for pod in pod_specs(render(example=name)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            if container["name"] != "engine":
                assert context["runAsNonRoot"] is True
                assert context["readOnlyRootFilesystem"] is True
                assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", ["stack", "stack-sglang"])
def test_grace_period_covers_the_drain(name: str) -> None:
    """The kubelet leaves time for the delay, the longest drain and the engine's own exit."""
    (pod, *_) = pod_specs(render("drainDelaySeconds=7", example=name, json=("config", {"drain_s": 1234.5})))
    (engine,) = pod["containers"]
    *_, delay, limit, port = engine["lifecycle"]["preStop"]["exec"]["command"]
    assert (delay, limit, port) == ("7", "1240", "9090")
    assert pod["terminationGracePeriodSeconds"] == 7 + 1235 + 30


def test_sidecar_is_native_and_does_not_wait_for_the_engine() -> None:
    """The proxy starts before the engine and outlives it, and its start asks for nothing but itself."""
    manifests = render(*STACK, "engine.startupSeconds=5000")
    assert only(manifests, "Deployment")["spec"]["progressDeadlineSeconds"] > 5000
    (pod, *_) = pod_specs(manifests)
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert sidecar["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_engine_is_told_to_keep_the_order(kind: EngineName) -> None:
    """By the flags of `headway run`: without them the engine would ignore or misread priorities, silently."""
    (pod, *_) = pod_specs(render(*STACK, f"engine.kind={kind}"))
    assert {"=".join(flag) for flag in (*ORDER[kind], *REPORTS[kind])} <= set(pod["containers"][0]["args"])


def test_the_alert_names_the_flags_that_belong_together() -> None:
    """Whoever adds one of SGLang's alone has running requests stopped, and others starve."""
    alerts = (CHART / "files" / "alerts.yaml").read_text(encoding="utf-8")
    assert all(line in alerts for line in ORDER_LINE.values())


def templates(manifests: list[Manifest]) -> list[Manifest]:
    """The pod templates of the long-running workloads."""
    return [m["spec"]["template"] for m in manifests if m["kind"] in ("Deployment", "StatefulSet")]


def selector_and_ports(manifest: Manifest) -> tuple[dict[str, str], list[Any]]:
    """Which pods an object means, and which of their ports."""
    spec = manifest["spec"]
    match manifest["kind"]:
        case "Service":
            return spec["selector"], [port.get("targetPort", port["port"]) for port in spec["ports"]]
        case "NetworkPolicy":
            ports = [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
            return spec["podSelector"]["matchLabels"], ports
        case "PodMonitor":
            return spec["selector"]["matchLabels"], [end["port"] for end in spec["podMetricsEndpoints"]]
    return spec["selector"]["matchLabels"], []


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("inject")])
def test_what_is_named_is_there(name: str) -> None:
    """Selectors mean exactly one workload, ports are declared, volumes mounted are volumes, targets exist."""
    manifests = render("metrics.podMonitor.enabled=true", "networkPolicy.enabled=true", example=name)
    for manifest in manifests:
        if manifest["kind"] in ("Service", "NetworkPolicy", "PodMonitor", "PodDisruptionBudget"):
            selector, ports = selector_and_ports(manifest)
            (pod,) = [
                t["spec"] for t in templates(manifests) if selector.items() <= t["metadata"]["labels"].items()
            ]
            declared = [port for c in containers(pod) for port in c.get("ports", ())]
            assert set(ports) <= {p["name"] for p in declared} | {p["containerPort"] for p in declared}
        elif manifest["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            assert (
                only(manifests, "Deployment")["metadata"]["name"]
                == manifest["spec"]["scaleTargetRef"]["name"]
            )
    for pod in pod_specs(manifests):
        volumes = {volume["name"] for volume in pod.get("volumes", ())} | {"data"}
        for container in containers(pod):
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


def test_one_retraining_at_a_time() -> None:
    """The job that retrains never runs twice at once, and keeps nothing in its pod."""
    manifests = render(example="gateway")
    assert only(manifests, "CronJob")["spec"]["concurrencyPolicy"] == "Forbid"
    job = only(manifests, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert all("persistentVolumeClaim" not in volume for volume in job["volumes"])


def test_autoscaler_watches_the_proxy() -> None:
    """CPU is measured on the container that works for it."""
    manifests = render(example="gateway")
    (metric,) = only(manifests, "HorizontalPodAutoscaler")["spec"]["metrics"]
    (pod,) = templates(manifests)
    assert metric["containerResource"]["container"] in [c["name"] for c in pod["spec"]["containers"]]


def test_admin_port_is_closed_unless_asked_for() -> None:
    """Full metrics and status listen on loopback until metrics are scraped or exposed."""
    for sets, host in [
        ((), "127.0.0.1"),
        (("metrics.expose=true",), "0.0.0.0"),
        (("metrics.podMonitor.enabled=true",), "0.0.0.0"),
    ]:
        config = only(render(*STACK, *sets), "ConfigMap")["data"]["headway.toml"]
        assert tomllib.loads(config)["admin_host"] == host


def test_settings_of_any_shape_reach_the_file() -> None:
    """Numbers, texts, lists and tables of `config` arrive as TOML, with nothing lost or retyped."""
    key = {"sha256": "ab" * 32, "tenant": 'a"<b>\n', "class": "batch"}
    given = {"window": 8, "max_overtake": 0.5, "policy": "fcfs", "keys": [key], "max_waiting_bytes": 1 << 40}
    config = only(render(*STACK, json=("config", given)), "ConfigMap")["data"]["headway.toml"]
    assert given.items() <= tomllib.loads(config).items()


def test_chart_stays_small() -> None:
    """At most 24 template files, half of them within 30 lines; a rendered stack within 400 lines."""
    files = [path for path in (CHART / "templates").rglob("*") if path.is_file()]
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    assert len(files) <= 24
    assert statistics.median(lengths) <= 30
    assert max(lengths) <= 100
    assert len(helm_template(*STACK).stdout.splitlines()) <= 400
