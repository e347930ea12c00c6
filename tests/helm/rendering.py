"""Rendering the chart with real helm, and finding one's way in what comes out."""

import subprocess
from collections.abc import Iterable, Iterator
from json import dumps
from pathlib import Path
from typing import Any, Final

import yaml

from . import tools

CHART: Final = Path(__file__).parents[2] / "helm" / "headway"
EXAMPLES: Final = sorted((CHART / "examples").glob("*.yaml"))
OPERATORS: Final = (
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
    "keda.sh/v1alpha1/ScaledObject",
)
POLICIES: Final = ("admissionregistration.k8s.io/v1/MutatingAdmissionPolicy",)
IMAGE: Final = "image.repository=registry.example/headway"
STACK: Final = (IMAGE, "engine.model=m")
Manifest = dict[str, Any]


def helm_template(
    *sets: str,
    example: str | None = None,
    kubernetes: str = "1.36.0",
    apis: Iterable[str] = (*OPERATORS, *POLICIES),
    helm: str = "helm4",
    json: tuple[str, Any] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`helm template demo CHART -n prod`, with an example's values and `--set`s; `json` is one `--set-json`."""
    command = [
        str(tools.helm(helm)),
        "template",
        "demo",
        str(CHART),
        "-n",
        "prod",
        "--kube-version",
        kubernetes,
    ]
    command += [part for api in apis for part in ("--api-versions", api)]
    command += ["-f", str(CHART / "examples" / f"{example}.yaml")] if example else []
    command += [part for value in sets for part in ("--set", value)]
    command += ["--set-json", f"{json[0]}={dumps(json[1])}"] if json else []
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def render(*sets: str, **options: Any) -> list[Manifest]:
    """The manifests; AssertionError with helm's words where it refuses."""
    done = helm_template(*sets, **options)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def notes(*sets: str, example: str) -> str:
    """What helm says after an installation, without a cluster."""
    place = (str(CHART), "-n", "prod", "--dry-run=client", "-f", str(CHART / "examples" / f"{example}.yaml"))
    command = [str(tools.helm("helm4")), "install", "demo", *place]
    command += [part for value in sets for part in ("--set", value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.partition("\nNOTES:\n")[2]


def refusal(*sets: str, **options: Any) -> str:
    """Helm's words; AssertionError where it does not refuse."""
    done = helm_template(*sets, **options)
    assert done.returncode != 0, "helm rendered what it should have refused"
    return done.stderr.strip()


def only(manifests: Iterable[Manifest], kind: str, *, suffix: str = "") -> Manifest:
    """The one manifest of that kind whose name ends so."""
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"].endswith(suffix)]
    return found


def pod_specs(manifests: Iterable[Manifest]) -> Iterator[Manifest]:
    """Every pod spec, whatever makes its pods."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        match manifest["kind"]:
            case "Deployment" | "StatefulSet":
                yield spec["template"]["spec"]
            case "CronJob":
                yield spec["jobTemplate"]["spec"]["template"]["spec"]
            case "Pod":
                yield spec


def containers(pod: Manifest) -> list[Manifest]:
    """All containers of a pod spec, sidecars first."""
    return [*pod.get("initContainers", ()), *pod["containers"]]
