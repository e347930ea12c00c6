"""The objects of the cluster, their versions, and who watches them."""

import asyncio
import copy
import itertools
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from . import controllers
from .errors import ApiError, not_found
from .kinds import Kind

Item = dict[str, Any]
_KEPT = ("uid", "creationTimestamp", "generation", "resourceVersion")


class Place(msgspec.Struct, frozen=True):
    """Where an object lives."""

    kind: Kind
    namespace: str | None
    name: str


class Watch(msgspec.Struct, eq=False):
    """One watcher's wish and what has happened since."""

    kind: Kind
    namespace: str | None
    events: asyncio.Queue[Item]


class Store:
    """Every object by its place. Not thread-safe: it lives on the server's loop."""

    def __init__(self, kinds: tuple[Kind, ...]) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._items: dict[Place, Item] = {}
        self._versions = itertools.count(1)
        self._watches: list[Watch] = []
        self.version = 0

    def get(self, place: Place) -> Item:
        """The object; ApiError 404 where there is none."""
        try:
            return self._items[place]
        except KeyError:
            raise not_found(place.kind.plural, place.name) from None

    def find(self, kind: Kind, namespace: str | None, query: Mapping[str, str]) -> list[Item]:
        """The objects of a kind that `labelSelector` and `fieldSelector` choose."""
        return [
            item
            for place, item in self._items.items()
            if place.kind == kind and namespace in (None, place.namespace) and selected(item, query)
        ]

    def create(self, place: Place, item: Item) -> Item:
        """Add it; ApiError 409 where it is already there."""
        if place in self._items:
            raise ApiError(409, "AlreadyExists", f'{place.kind.plural} "{place.name}" already exists')
        return self.put(place, item)

    def put(self, place: Place, item: Item) -> Item:
        """Add or replace it, keeping its identity, and let the controllers do their work."""
        old = self._items.get(place)
        item = copy.deepcopy(item)
        metadata = item.setdefault("metadata", {})
        metadata |= self._identity(old)
        if place.namespace:
            metadata["namespace"] = place.namespace
        controllers.set_defaults(item)
        if status := controllers.settled(item):
            item["status"] = status
        self._items[place] = item
        self._tell("MODIFIED" if old else "ADDED", place, item)
        self._follow(place, item)
        return item

    def _identity(self, old: Item | None) -> Item:
        self.version = next(self._versions)
        fresh: Item = {"uid": str(uuid.uuid4()), "creationTimestamp": controllers.now(), "generation": 0}
        kept: Item = {key: old["metadata"][key] for key in _KEPT} if old else fresh
        return kept | {"generation": kept["generation"] + 1, "resourceVersion": str(self.version)}

    def _follow(self, place: Place, item: Item) -> None:
        """What controllers make because this object exists."""
        if place.kind.name == "Deployment":
            made = controllers.replica_set(item)
            self.put(Place(self._kinds["ReplicaSet"], place.namespace, made["metadata"]["name"]), made)
        elif place.kind.name == "Namespace":
            made = controllers.root_certificate()
            self.put(Place(self._kinds["ConfigMap"], place.name, made["metadata"]["name"]), made)

    def delete(self, place: Place) -> Item:
        """Remove it and what it owns."""
        item = self.get(place)
        del self._items[place]
        self.version = next(self._versions)
        self._tell("DELETED", place, item)
        for owned in list(self._owned(item["metadata"]["uid"])):
            self.delete(owned)
        return item

    def _owned(self, uid: str) -> Iterator[Place]:
        for place, item in self._items.items():
            if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", ())):
                yield place

    def watch(self, kind: Kind, namespace: str | None) -> Watch:
        """Be told of every change from now on."""
        watch = Watch(kind, namespace, asyncio.Queue())
        self._watches.append(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """No more."""
        self._watches.remove(watch)

    def _tell(self, what: str, place: Place, item: Item) -> None:
        for watch in self._watches:
            if watch.kind == place.kind and watch.namespace in (None, place.namespace):
                watch.events.put_nowait({"type": what, "object": copy.deepcopy(item)})


def selected(item: Item, query: Mapping[str, str]) -> bool:
    """Whether `labelSelector` (equality, `in`) and `fieldSelector` (metadata.name) choose the object."""
    labels = item["metadata"].get("labels", {})
    fields = {"metadata.name": item["metadata"]["name"]}
    return all(_holds(part, labels) for part in _parts(query.get("labelSelector", ""))) and all(
        _holds(part, fields) for part in _parts(query.get("fieldSelector", ""))
    )


def _parts(selector: str) -> list[str]:
    depth, parts = 0, [""]
    for character in selector:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part]


def _holds(part: str, labels: Mapping[str, str]) -> bool:
    if " in (" in part or " notin (" in part:
        name, operator, values = part.split(" ", 2)
        return (labels.get(name) in values.strip("()").split(",")) is (operator == "in")
    if "!=" in part:
        name, _, value = part.partition("!=")
        return labels.get(name) != value
    name, equals, value = part.replace("==", "=").partition("=")
    return labels.get(name) == value if equals else name in labels
