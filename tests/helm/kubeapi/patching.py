"""How a PATCH changes an object: JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch."""

import copy
from typing import Any, Final

# Lists that are merged by a member's key; all others are replaced (patchMergeKey in the types of k8s.io/api).
_MERGE_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "topologySpreadConstraints": "topologyKey",
    "hostAliases": "ip",
}


def merge_key(name: str, items: list[Any]) -> str | None:
    """The key by which the list `name` is merged; None where it is replaced as a whole."""
    if name == "ports":
        return "containerPort" if any("containerPort" in item for item in items) else "port"
    return _MERGE_KEYS.get(name)


def merge(target: Any, patch: Any) -> Any:
    """JSON merge patch: null deletes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic_merge(target: Any, patch: Any) -> Any:
    """As `merge`, but lists with a key are merged by it, with the directives `$patch` and `$setElementOrder`."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    result = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            result.pop(key, None)
        elif isinstance(value, list):
            result[key] = _merge_list(key, result.get(key) or [], value)
        else:
            result[key] = strategic_merge(result.get(key), value)
    return _in_order(result, patch)


def _merge_list(name: str, old: list[Any], new: list[Any]) -> list[Any]:
    key = merge_key(name, [item for item in new if isinstance(item, dict)])
    if key is None or any(not isinstance(item, dict) for item in new):
        return [item for item in new if not (isinstance(item, dict) and item.get("$patch"))]
    merged = {item[key]: item for item in old}
    for item in new:
        if item.get("$patch") == "delete":
            merged.pop(item[key], None)
        else:
            merged[item[key]] = strategic_merge(merged.get(item[key]), item)
    return list(merged.values())


def _in_order(result: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    for directive, order in patch.items():
        head, _, name = directive.partition("/")
        if head != "$setElementOrder" or name not in result:
            continue
        key = merge_key(name, order)
        if key is not None:
            places = [item[key] for item in order]
            result[name].sort(key=lambda item: places.index(item[key]) if item[key] in places else -1)
    return result
