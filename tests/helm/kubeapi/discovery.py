"""What clients ask before anything else: which groups, kinds and verbs there are."""

from itertools import groupby
from typing import Any, Final

from .kinds import Kind

_VERBS: Final = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
Document = dict[str, Any]


def documents(kinds: tuple[Kind, ...], kubernetes: str) -> dict[str, Document]:
    """Every discovery document by its path."""
    ordered = sorted(kinds, key=lambda kind: (kind.group, kind.version))
    by_prefix = {prefix: list(members) for prefix, members in groupby(ordered, lambda kind: kind.prefix)}
    fixed = {
        "version": _version(kubernetes),
        "api": {"kind": "APIVersions", "versions": ["v1"]},
        "apis": _groups(by_prefix),
        "openapi/v3": {
            "paths": {prefix: {"serverRelativeURL": f"/openapi/v3/{prefix}?hash=1"} for prefix in by_prefix}
        },
    }
    resources = {prefix: _resources(members) for prefix, members in by_prefix.items()}
    openapi = {f"openapi/v3/{prefix}": _openapi(prefix, members) for prefix, members in by_prefix.items()}
    return fixed | resources | openapi


def _version(kubernetes: str) -> Document:
    major, minor, *_ = kubernetes.split(".")
    known = {"major": major, "minor": minor, "gitVersion": f"v{kubernetes}", "platform": "linux/amd64"}
    return known | dict.fromkeys(("gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler"), "")


def _groups(by_prefix: dict[str, list[Kind]]) -> Document:
    versions = [
        {"groupVersion": members[0].api_version, "version": members[0].version}
        for members in by_prefix.values()
        if members[0].group
    ]
    groups = [
        {"name": version["groupVersion"].split("/")[0], "versions": [version], "preferredVersion": version}
        for version in versions
    ]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def _resources(members: list[Kind]) -> Document:
    listed = [
        {
            "name": kind.plural,
            "singularName": kind.name.lower(),
            "namespaced": kind.namespaced,
            "kind": kind.name,
            "verbs": _VERBS,
        }
        for kind in members
    ]
    version = members[0].api_version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": listed}


def _openapi(prefix: str, members: list[Kind]) -> Document:
    """Tells clients that server-side validation (`fieldValidation`) and dry runs exist."""
    known = [
        {"name": name, "in": "query", "schema": {"type": "string"}} for name in ("fieldValidation", "dryRun")
    ]
    paths: Document = {}
    for kind in members:
        scope = "/namespaces/{namespace}" if kind.namespaced else ""
        gvk = {"group": kind.group, "version": kind.version, "kind": kind.name}
        operation = {
            "parameters": known,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": gvk,
        }
        paths[f"/{prefix}{scope}/{kind.plural}"] = {"post": operation}
        paths[f"/{prefix}{scope}/{kind.plural}/{{name}}"] = {"patch": operation}
    info = {"title": "Kubernetes", "version": "v1"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}
