"""What an API server refuses: objects that its schemas do not allow, and lists with the same key twice."""

from collections import Counter
from typing import Any

import kubernetes_validate

from .errors import invalid
from .kinds import Kind
from .patching import merge_key


def validate(kind: Kind, item: dict[str, Any], kubernetes: str) -> None:
    """Raise ApiError 422 where the schemas of that Kubernetes version, or its list keys, refuse the object."""
    name = item.get("metadata", {}).get("name", "")
    if duplicate := find_duplicate(item):
        raise invalid(kind.name, name, f"duplicate entries for key {duplicate}")
    if kind.schema:
        try:
            kubernetes_validate.validate(item, kubernetes, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(part) for part in error.path)
            raise invalid(kind.name, name, f"{where}: {error.message}") from error


def find_duplicate(item: Any, path: str = "") -> str | None:
    """The first list whose members share a merge key, as server-side apply refuses it."""
    if isinstance(item, list):
        return next(filter(None, (find_duplicate(member, path) for member in item)), None)
    if not isinstance(item, dict):
        return None
    for name, value in item.items():
        where = f"{path}.{name}"
        if isinstance(value, list) and (twice := _twice(name, value)):
            return f"{where}[{twice}]"
        if found := find_duplicate(value, where):
            return found
    return None


def _twice(name: str, items: list[Any]) -> str | None:
    members = [item for item in items if isinstance(item, dict)]
    key = merge_key(name, members)
    if key is None:
        return None
    counts = Counter(str((item.get(key), item.get("protocol", "TCP"))) for item in members if key in item)
    return next((value for value, count in counts.items() if count > 1), None)
