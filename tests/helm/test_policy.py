"""Injection: the admission policy, `headway sidecar-patch` and the kustomize component add the same proxy.

The policy's expressions are evaluated by Google's CEL runtime on a pod; that a real API server does the same
can only be seen on one.
"""

import argparse
import copy
import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, struct_pb2

from proxy import sidecar_patch

from . import tools
from .kubeapi.patching import strategic_merge
from .rendering import CHART, Manifest, notes, only, render

COMPONENT = CHART.parent / "kustomize"


def engine_pod(**spec: Any) -> Manifest:
    """A pod as a cluster's user runs an engine."""
    engine = {"name": "vllm", "image": "vllm/vllm-openai:v0.32.0", "ports": [{"containerPort": 8000}]}
    logger = {"name": "logger", "image": "logger:1", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}
    labels = {"app": "vllm", "headway.dev/inject": "demo"}
    pod = {"containers": [logger, engine], "terminationGracePeriodSeconds": 30} | spec
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "vllm-0", "labels": labels}, "spec": pod}


@pytest.fixture(scope="module")
def policy() -> Manifest:
    """The policy of the example."""
    return dict(only(render(example="inject"), "MutatingAdmissionPolicy")["spec"])


@pytest.fixture(scope="module")
def environment() -> Any:
    """CEL as admission has it: `object`, `variables` and the type JSONPatch."""
    pool = descriptor_pool.DescriptorPool()
    struct = descriptor_pb2.FileDescriptorProto()
    struct_pb2.DESCRIPTOR.CopyToProto(struct)
    pool.Add(struct)
    file = descriptor_pb2.FileDescriptorProto(name="patch.proto", syntax="proto3", dependency=[struct.name])
    message = file.message_type.add(name="JSONPatch")
    for number, name in enumerate(("op", "path", "from"), start=1):
        message.field.add(name=name, number=number, type="TYPE_STRING", label="LABEL_OPTIONAL")
    message.field.add(
        name="value",
        number=4,
        type="TYPE_MESSAGE",
        label="LABEL_OPTIONAL",
        type_name=".google.protobuf.Value",
    )
    pool.Add(file)
    dyn = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    return cel.NewEnv(descriptor_pool=pool, variables={"object": dyn, "variables": dyn})


def admit(policy: Manifest, environment: Any, pod: Manifest) -> Manifest:
    """The pod after the policy, as the API server would store it."""
    data: dict[str, Any] = {"object": pod, "variables": {}}

    def evaluate(expression: str) -> Any:
        return environment.compile(expression).eval(data=data).plain_value()

    if not all(evaluate(condition["expression"]) for condition in policy["matchConditions"]):
        return pod
    for variable in policy["variables"]:
        data["variables"][variable["name"]] = evaluate(variable["expression"])
    pod = copy.deepcopy(pod)
    for mutation in policy["mutations"]:
        for operation in evaluate(mutation["jsonPatch"]["expression"]):
            add(pod, json_format.MessageToDict(operation))
    return pod


def add(document: Any, operation: dict[str, Any]) -> None:
    """RFC 6902's `add`, which is all that the policy uses."""
    assert operation["op"] == "add"
    *parents, last = operation["path"].strip("/").split("/")
    for part in parents:
        document = document[int(part)] if isinstance(document, list) else document[part]
    if isinstance(document, list):
        assert last == "-"
        document.append(operation["value"])
    else:
        document[last] = operation["value"]


def sidecar_patch_of(*arguments: str) -> Manifest:
    """What `headway sidecar-patch` prints."""
    parser = argparse.ArgumentParser()
    sidecar_patch.add_arguments(parser)
    return sidecar_patch.patch(parser.parse_args(arguments))


def whole(value: Any) -> Any:
    """Protobuf's Value has no integers; JSON on the wire has."""
    return json.loads(json.dumps(value, default=str), parse_float=lambda text: int(float(text)))


def test_policy_and_patch_add_the_same(policy: Manifest, environment: Any) -> None:
    """Sidecar, volumes, drain hook and grace period agree, whichever way the proxy comes in."""
    by_policy = whole(admit(policy, environment, engine_pod())["spec"])
    patch = sidecar_patch_of(
        "--image=registry.example/headway:0.1.0", "--engine-container=vllm", "--config-map=demo-headway"
    )["spec"]["template"]
    by_patch = strategic_merge(engine_pod(), patch)["spec"]
    for pod in (by_policy, by_patch):
        pod["containers"].sort(key=lambda container: container["name"])
        pod["volumes"].sort(key=lambda volume: volume["name"])
    assert by_policy == by_patch


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("engine.apiKeySecret=the-key", "redis.kind=internal"),
        ("redis.kind=external", "redis.existingSecret=our-redis", "redis.caSecret=our-ca"),
        (
            'proxy.env[0].name=NOTE,proxy.env[0].value=it\'s "ours"',
            "proxy.env[1].name=LOGS,proxy.env[1].valueFrom.configMapKeyRef.name=logs",
            "proxy.resources.limits.memory=4Gi",
            "proxy.resources.requests.cpu=2",
            "image.pullPolicy=Always",
            "drainDelaySeconds=9",
            "config.drain_s=90",
        ),
        ("redis.kind=internal", "proxy.env[0].name=A"),
    ],
)
def test_the_command_of_the_notes_adds_what_the_policy_would(sets: tuple[str, ...], environment: Any) -> None:
    """With the Secrets that the configuration names, without which a proxy does not start or shares nothing, and with
    the container's environment, resources and times that the chart was given."""
    said = notes(*sets, example="inject-by-patch").replace("\\\n", "")
    command = said.partition("headway sidecar-patch")[2].partition(">")[0].replace("NAME", "vllm")
    patch = sidecar_patch_of(*shlex.split(command))
    by_patch = strategic_merge(engine_pod(), patch["spec"]["template"])["spec"]
    policy = only(render(*sets, example="inject"), "MutatingAdmissionPolicy")["spec"]
    by_policy = whole(admit(policy, environment, engine_pod())["spec"])
    for pod in (by_policy, by_patch):
        for part in (pod["containers"], pod["volumes"], pod["initContainers"][0]["volumeMounts"]):
            part.sort(key=lambda one: one["name"])
    assert by_policy == by_patch


def test_without_a_config_map_the_secrets_are_named_by_flags() -> None:
    """A key that is mounted and never read would be refused by the engine all the same."""
    flags = ("--engine-key-secret=k", "--redis=rediss://r:6380/0", "--redis-ca-secret=c")
    patch = sidecar_patch_of("--image=i", "--engine-container=vllm", *flags)["spec"]["template"]["spec"]
    (sidecar,) = patch["initContainers"]
    files = {mount["mountPath"] for mount in sidecar["volumeMounts"]}
    assert {"/secrets/engine", "/secrets/redis-ca"} <= files
    assert "--engine-api-key-file=/secrets/engine/api-key" in sidecar["command"]
    assert "--redis-ca-file=/secrets/redis-ca/ca.crt" in sidecar["command"]
    assert sidecar["env"] == [{"name": "HEADWAY_REDIS", "value": "rediss://r:6380/0"}]


def test_policy_leaves_other_containers_and_longer_grace_alone(policy: Manifest, environment: Any) -> None:
    """Only the engine waits for the drain; what the pod already has is kept."""
    first = {"name": "fetch", "image": "fetch:1"}
    pod = admit(policy, environment, engine_pod(initContainers=[first], terminationGracePeriodSeconds=9000))[
        "spec"
    ]
    logger, engine = pod["containers"]
    assert logger["lifecycle"] == {"preStop": {"sleep": {"seconds": 1}}}
    assert engine["lifecycle"]["preStop"]["exec"]["command"][:2] == ["python3", "-c"]
    assert pod["terminationGracePeriodSeconds"] == 9000
    assert [container["name"] for container in pod["initContainers"]] == ["fetch", "headway"]


def test_policy_keeps_the_engines_own_hooks(policy: Manifest, environment: Any) -> None:
    """A postStart stays beside our preStop; a preStop of the engine's own is not replaced."""

    def lifecycle_after(lifecycle: Manifest) -> Manifest:
        pod = engine_pod()
        pod["spec"]["containers"][1]["lifecycle"] = lifecycle
        return dict(admit(policy, environment, pod)["spec"]["containers"][1]["lifecycle"])

    start, stop = {"exec": {"command": ["true"]}}, {"exec": {"command": ["drain"]}}
    assert lifecycle_after({"postStart": start}).keys() == {"postStart", "preStop"}
    assert lifecycle_after({"preStop": stop}) == {"preStop": stop}


def test_policy_adds_the_proxy_once(policy: Manifest, environment: Any) -> None:
    """A pod that already has the proxy, from the patch or from a second call, is left as it is."""
    once = admit(policy, environment, engine_pod())
    assert admit(policy, environment, once) == once


def test_injected_pod_is_valid(policy: Manifest, environment: Any) -> None:
    """What comes out passes the strict schema of a pod."""
    kubernetes_validate.validate(whole(admit(policy, environment, engine_pod())), "1.36", strict=True)


def test_drain_script_is_one() -> None:
    """The chart's hook and the patch's run the same script."""
    assert (CHART / "files" / "drain.py").read_text(encoding="utf-8") == sidecar_patch.DRAIN_SCRIPT


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A user's kustomization around the component."""
    pod = engine_pod()
    pod["spec"]["containers"][1]["name"] = "engine"
    labels = {"headway.dev/inject": "headway"}
    template = {"metadata": {"labels": {"app": "vllm"}}, "spec": pod["spec"]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vllm", "labels": labels},
        "spec": {"selector": {"matchLabels": {"app": "vllm"}}, "template": template},
    }
    images = [{"name": "headway", "newName": "registry.example/headway", "newTag": "0.1.0"}]
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(deployment))
    (tmp_path / "component").symlink_to(COMPONENT)
    kustomization = {"resources": ["deployment.yaml"], "components": ["component"], "images": images}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    yield tmp_path


def test_component_adds_the_proxy(overlay: Path) -> None:
    """Real kustomize puts the proxy, with the user's image, and its Service beside the engine."""
    build = [str(tools.kubectl()), "kustomize", "--load-restrictor=LoadRestrictionsNone", str(overlay)]
    done = subprocess.run(build, capture_output=True, text=True, check=True)
    manifests = list(yaml.safe_load_all(done.stdout))
    template = only(manifests, "Deployment")["spec"]["template"]
    (sidecar,) = template["spec"]["initContainers"]
    assert (sidecar["name"], sidecar["image"]) == ("headway", "registry.example/headway:0.1.0")
    assert only(manifests, "Service")["spec"]["selector"].items() <= template["metadata"]["labels"].items()


def test_component_is_what_the_command_prints() -> None:
    """The component's patch is `headway sidecar-patch`'s own."""
    printed = sidecar_patch_of("--kustomize", "--image=headway", "--engine-container=engine")
    assert json.loads((COMPONENT / "sidecar.json").read_text(encoding="utf-8")) == printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--engine-port=8001"], "must be three different ports"),
        (["--config-map=a", "--", "--window=3"], "settings belong into its headway.toml"),
    ],
)
def test_patch_refuses_what_cannot_work(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr, nothing on stdout, exit status 2."""
    parser = argparse.ArgumentParser()
    sidecar_patch.add_arguments(parser)
    args = parser.parse_args(["--image=i", "--engine-container=c", *arguments])
    assert sidecar_patch.run(args) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "--port=0",
            "--port=a",
            "--release=A_b",
            "--drain-s=-1",
            "--engine-container=A_b",
            "--pull-policy=now",
        ),
        *("--env=A=1", '--env={"A": 1}', "--env=[1]", "--resources=[]", "--resources={1}", "--resources=4Gi"),
    ],
)
def test_patch_refuses_bad_arguments(argument: str) -> None:
    """What is no port, name or number of seconds is refused by argparse, with status 2."""
    with pytest.raises(SystemExit, match="2"):
        sidecar_patch_of("--image=i", "--engine-container=c", argument)
