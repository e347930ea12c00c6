"""What the cluster's controllers would say of an object: here everything is well at once, as nothing runs."""

import copy
import datetime
from typing import Any


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def set_defaults(item: dict[str, Any]) -> None:
    """The defaults of the API server that helm reads back."""
    match item["kind"]:
        case "Service":
            item["spec"].setdefault("clusterIP", "10.96.0.10")
        case "Deployment" | "StatefulSet":
            item["spec"].setdefault("replicas", 1)


def settled(item: dict[str, Any]) -> dict[str, Any] | None:
    """The status that a healthy cluster would report; None for kinds without one."""
    replicas = item.get("spec", {}).get("replicas", 1)
    generation = item["metadata"]["generation"]
    counts = {"observedGeneration": generation, "replicas": replicas, "readyReplicas": replicas}
    match item["kind"]:
        case "Deployment":
            return counts | {
                "updatedReplicas": replicas,
                "availableReplicas": replicas,
                "conditions": _available(),
            }
        case "StatefulSet":
            revisions = {"currentRevision": "1", "updateRevision": "1", "currentReplicas": replicas}
            return counts | revisions | {"updatedReplicas": replicas, "availableReplicas": replicas}
        case "ReplicaSet":
            return counts | {"availableReplicas": replicas}
        case "Pod":
            return {"phase": "Succeeded", "conditions": [_true("Initialized")]}
        case "PersistentVolumeClaim":
            return {"phase": "Bound"}
        case "Namespace":
            return {"phase": "Active"}
        case "PodDisruptionBudget":
            return {"observedGeneration": generation, "currentHealthy": 1, "desiredHealthy": 0}
    return None


def _available() -> list[dict[str, str]]:
    return [_true("Available"), _true("Progressing") | {"reason": "NewReplicaSetAvailable"}]


def _true(name: str) -> dict[str, str]:
    return {"type": name, "status": "True"}


def replica_set(deployment: dict[str, Any]) -> dict[str, Any]:
    """The ReplicaSet that a Deployment makes of its template; helm waits for it."""
    metadata, spec = deployment["metadata"], deployment["spec"]
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "controller": True}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{metadata['name']}-1",
            "labels": copy.deepcopy(spec["template"]["metadata"].get("labels", {})),
            "ownerReferences": [owner | {"name": metadata["name"], "uid": metadata["uid"]}],
        },
        "spec": {
            "replicas": spec.get("replicas", 1),
            "selector": copy.deepcopy(spec["selector"]),
            "template": copy.deepcopy(spec["template"]),
        },
    }


def root_certificate() -> dict[str, Any]:
    """The ConfigMap that every namespace has."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kube-root-ca.crt"},
        "data": {"ca.crt": ""},
    }
