"""The kinds that the server knows."""

from typing import Final

import msgspec


class Kind(msgspec.Struct, frozen=True):
    """One resource type. `schema` is False for custom resources, whose schemas are their operators' own."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True
    schema: bool = True

    @property
    def api_version(self) -> str:
        """As manifests write it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        """Where its group and version are served."""
        return f"apis/{self.group}/{self.version}" if self.group else f"api/{self.version}"


def _kinds(
    group: str, version: str, names: str, *, namespaced: bool = True, schema: bool = True
) -> list[Kind]:
    return [
        Kind(group, version, _plural(name), name, namespaced=namespaced, schema=schema)
        for name in names.split()
    ]


def _plural(name: str) -> str:
    low = name.lower()
    return low[:-1] + "ies" if low.endswith("y") else low + "s"


BUILT_IN: Final = (
    *_kinds("", "v1", "Namespace Node", namespaced=False),
    *_kinds("", "v1", "Pod Service ConfigMap Secret ServiceAccount PersistentVolumeClaim Event"),
    *_kinds("apps", "v1", "Deployment StatefulSet ReplicaSet"),
    *_kinds("batch", "v1", "Job CronJob"),
    *_kinds("policy", "v1", "PodDisruptionBudget"),
    *_kinds("autoscaling", "v2", "HorizontalPodAutoscaler"),
    *_kinds("networking.k8s.io", "v1", "NetworkPolicy"),
)
ADMISSION: Final = _kinds(
    "admissionregistration.k8s.io",
    "v1",
    "MutatingAdmissionPolicy MutatingAdmissionPolicyBinding",
    namespaced=False,
)
MONITORING: Final = _kinds("monitoring.coreos.com", "v1", "PodMonitor PrometheusRule", schema=False)
KEDA: Final = _kinds("keda.sh", "v1alpha1", "ScaledObject", schema=False)
EVERYTHING: Final = (*BUILT_IN, *ADMISSION, *MONITORING, *KEDA)
