"""`headway sidecar-patch`: the patch that puts the proxy beside the engine of a Deployment that already runs.

The container is the one that the chart injects by admission policy (helm/headway/templates/_proxy.tpl); a test
compares the two.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
# Beyond the drain: the engine's own exit.
_MARGIN_S: Final = 30
# Where the chart's headway.toml looks for them (helm/headway/templates/_config.tpl).
_ENGINE_KEY_FILE: Final = "/secrets/engine/api-key"
_REDIS_CA_FILE: Final = "/secrets/redis-ca/ca.crt"
# Runs in the engine's container, so it needs nothing but the Python that runs the engine.
DRAIN_SCRIPT: Final = """\
# Keep serving until no Service sends here any more; then have the proxy beside us finish every answer.
import http.client
import sys
import time

delay_s, limit_s, admin_port = (float(argument) for argument in sys.argv[1:])
time.sleep(delay_s)
proxy = http.client.HTTPConnection("127.0.0.1", int(admin_port), timeout=limit_s)
proxy.request("POST", "/headway/drain")
status = proxy.getresponse().status
sys.exit(0 if status == 200 else f"the proxy had not finished: HTTP {status}")
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What differs from one cluster to the next; everything after `--` goes to `headway serve`."""
    add = parser.add_argument
    add("--image", required=True, help="the proxy's image, with its tag")
    add(
        "--pull-policy",
        choices=["Always", "IfNotPresent", "Never"],
        default="IfNotPresent",
        help="when the kubelet pulls it (IfNotPresent)",
    )
    add(
        "--engine-container",
        type=_name,
        required=True,
        metavar="NAME",
        help="the engine's container in the pod",
    )
    add("--engine-port", type=_port, default=8000, metavar="PORT", help="the engine's port (8000)")
    add("--port", type=_port, default=8001, metavar="PORT", help="the proxy's port (8001)")
    add("--admin-port", type=_port, default=9090, metavar="PORT", help="metrics, status and drain (9090)")
    add(
        "--release",
        type=_name,
        default="headway",
        metavar="NAME",
        help="value of the pods' label headway.dev/inject, by which the Service finds them (headway)",
    )
    add("--config-map", type=_name, metavar="NAME", help="ConfigMap with headway.toml, instead of flags")
    _add_secrets(add)
    _add_container(add)
    add("--drain-delay-s", type=_seconds, default=5, metavar="S", help="keep serving before the drain (5)")
    add("--drain-s", type=_seconds, default=600, metavar="S", help="longest drain (600)")
    add("--kustomize", action="store_true", help="with the head that kustomize wants in a patch")
    add("serve", nargs="*", metavar="-- FLAG", help="more flags of headway serve")


def _add_secrets(add: Callable[..., object]) -> None:
    """What the chart's values `engine.apiKeySecret` and `redis` stand for: the kubelet alone sees what is in them."""
    secret = {"type": _name, "metavar": "NAME"}
    add("--engine-key-secret", **secret, help="Secret whose `api-key` is the engine's")
    add("--redis-secret", **secret, help="Secret with Redis's `url`; with --redis: with its `password`")
    add("--redis", metavar="URL", help="Redis that proxies share")
    add("--redis-ca-secret", **secret, help="Secret whose `ca.crt` Redis's TLS is held against")


def _add_container(add: Callable[..., object]) -> None:
    """The chart's values `proxy.env` and `proxy.resources`, as they stand there."""
    add(
        "--env",
        type=_as_json(list[dict[str, Any]]),
        default=[],
        metavar="JSON",
        help="""more environment variables, as pods write them: [{"name": "A", "value": "b"}]""",
    )
    add(
        "--resources",
        type=_as_json(dict[str, dict[str, Any]]),
        default={"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        metavar="JSON",
        help="the proxy's requests and limits, as pods write them (500m CPU; 512Mi, at most 2Gi)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the patch to stdout as JSON, which kubectl and kustomize take as it is."""
    if len({args.engine_port, args.port, args.admin_port}) < 3:
        return _refuse("--engine-port, --port and --admin-port must be three different ports")
    if args.config_map and args.serve:
        return _refuse("with --config-map, settings belong into its headway.toml")
    sys.stdout.write(json.dumps(patch(args), indent=2) + "\n")
    return 0


def _refuse(reason: str) -> int:
    sys.stderr.write(f"headway: {reason}\n")
    return 2


def patch(args: argparse.Namespace) -> dict[str, Any]:
    """A strategic merge patch of a Deployment, StatefulSet or any other kind with a pod template."""
    pod = {
        # A Service named headway-x would otherwise set HEADWAY_X_… in the proxy, and those are no settings.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": args.drain_delay_s + args.drain_s + _MARGIN_S,
        "initContainers": [_sidecar(args)],
        "containers": [{"name": args.engine_container, "lifecycle": {"preStop": _drain_hook(args)}}],
        "volumes": _volumes(args),
    }
    # Kustomize reads the kind from here and the target from kustomization.yaml; kubectl knows both already.
    head = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "any"}}
    template = {"metadata": {"labels": {"headway.dev/inject": args.release}}, "spec": pod}
    return (head if args.kustomize else {}) | {"spec": {"template": template}}


def _sidecar(args: argparse.Namespace) -> dict[str, Any]:
    """A native sidecar: up before the engine, and told to stop only after it (Kubernetes 1.29)."""
    alive = {"path": "/healthz", "port": "headway"}
    return {
        "name": "headway",
        "image": args.image,
        "imagePullPolicy": args.pull_policy,
        "restartPolicy": "Always",
        "command": _command(args),
        **({"env": env} if (env := _redis_env(args) + args.env) else {}),
        "ports": [
            {"name": "headway", "containerPort": args.port},
            {"name": "headway-admin", "containerPort": args.admin_port},
        ],
        # Started means listening: waiting for the engine here would keep the engine from starting at all.
        "startupProbe": {"httpGet": alive, "periodSeconds": 1, "failureThreshold": 120},
        "livenessProbe": {"httpGet": alive, "timeoutSeconds": 5, "failureThreshold": 6},
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "headway"},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
        },
        "resources": args.resources,
        "securityContext": _security_context(),
        "volumeMounts": _mounts(args),
    }


def _command(args: argparse.Namespace) -> list[str]:
    if args.config_map:
        return ["headway", "serve", "--config", "/etc/headway/headway.toml"]
    flags = {
        "--engine": f"http://127.0.0.1:{args.engine_port}",
        "--host": "0.0.0.0",  # noqa: S104 - the pod's own address, which the Service sends to
        "--port": str(args.port),
        "--admin-port": str(args.admin_port),
        "--state": "/var/lib/headway",
        "--drain-s": str(args.drain_s),
    }
    flags |= {"--engine-api-key-file": _ENGINE_KEY_FILE} if args.engine_key_secret else {}
    flags |= {"--redis-ca-file": _REDIS_CA_FILE} if args.redis_ca_secret else {}
    return ["headway", "serve", *(f"{name}={value}" for name, value in flags.items()), *args.serve]


def _redis_env(args: argparse.Namespace) -> list[dict[str, Any]]:
    """In the environment, because only there the kubelet can put in what a Secret holds."""
    name, key = ("HEADWAY_REDIS_PASSWORD", "password") if args.redis else ("HEADWAY_REDIS", "url")
    secret = {"secretKeyRef": {"name": args.redis_secret, "key": key}}
    return [
        *([{"name": "HEADWAY_REDIS", "value": args.redis}] if args.redis else []),
        *([{"name": name, "valueFrom": secret}] if args.redis_secret else []),
    ]


def _secrets(args: argparse.Namespace) -> list[tuple[str, str, PurePosixPath]]:
    """Volume, Secret and folder of each file that comes from a Secret."""
    named = (
        ("headway-engine-key", args.engine_key_secret, PurePosixPath(_ENGINE_KEY_FILE).parent),
        ("headway-redis-ca", args.redis_ca_secret, PurePosixPath(_REDIS_CA_FILE).parent),
    )
    return [(volume, secret, folder) for volume, secret, folder in named if secret]


def _security_context() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _mounts(args: argparse.Namespace) -> list[dict[str, Any]]:
    config = [{"name": "headway-config", "mountPath": "/etc/headway", "readOnly": True}]
    return [
        *(config if args.config_map else []),
        {"name": "headway-state", "mountPath": "/var/lib/headway"},
        {"name": "headway-tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of the pod's own
        *(
            {"name": volume, "mountPath": str(folder), "readOnly": True}
            for volume, _, folder in _secrets(args)
        ),
    ]


def _volumes(args: argparse.Namespace) -> list[dict[str, Any]]:
    config = [{"name": "headway-config", "configMap": {"name": args.config_map}}]
    return [
        *(config if args.config_map else []),
        {"name": "headway-tmp", "emptyDir": {}},
        {"name": "headway-state", "emptyDir": {}},
        *({"name": volume, "secret": {"secretName": secret}} for volume, secret, _ in _secrets(args)),
    ]


def _drain_hook(args: argparse.Namespace) -> dict[str, Any]:
    """The sidecar is told to stop only after the engine has: so the engine waits until every answer is out."""
    numbers = (args.drain_delay_s, args.drain_s + 5, args.admin_port)
    return {"exec": {"command": ["python3", "-c", DRAIN_SCRIPT.strip(), *map(str, numbers)]}}


def _as_json(kind: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return msgspec.json.decode(text, type=kind)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not written as in a pod, in JSON: {error}"
            ) from error

    return read


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")
    return int(text)


def _seconds(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: give whole seconds")
    return int(text)


def _name(text: str) -> str:
    if len(text) > 63 or not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no Kubernetes name: a-z, 0-9 and - only, at most 63")
    return text
