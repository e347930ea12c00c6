"""The HTTP face of the store: `with ApiServer("1.36.0") as server:` gives a kubeconfig for helm and kubectl."""

import asyncio
import copy
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml
from aiohttp import web

from . import protobuf
from .discovery import documents
from .errors import ApiError, not_found
from .kinds import EVERYTHING, Kind
from .patching import merge, strategic_merge
from .store import Item, Place, Store, selected
from .validation import validate

_APPLY: Final = "application/apply-patch+yaml"
_STRATEGIC: Final = "application/strategic-merge-patch+json"
_MERGE: Final = "application/merge-patch+json"


class ApiServer:
    """Runs on a thread of its own, since helm is a process that blocks the test."""

    def __init__(self, kubernetes: str = "1.36.0", kinds: tuple[Kind, ...] = EVERYTHING) -> None:
        self._kubernetes = kubernetes
        self._kinds = {(kind.prefix, kind.plural): kind for kind in kinds}
        self._documents = documents(kinds, kubernetes)
        self._store = Store(kinds)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        for name in ("default", "prod"):
            self._store.put(Place(self._kinds["api/v1", "namespaces"], None, name), _namespace(name))

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> int:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return int(self._runner.addresses[0][1])

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
            "current-context": "c",
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def items(self, kind: str, namespace: str | None = None) -> dict[str, Item]:
        """The objects of a kind by name."""
        chosen = next(known for known in self._kinds.values() if known.name == kind)
        return {
            item["metadata"]["name"]: copy.deepcopy(item) for item in self._store.find(chosen, namespace, {})
        }

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._route(request)
        except ApiError as error:
            return web.json_response(error.status(), status=error.code)

    async def _route(self, request: web.Request) -> web.StreamResponse:
        path = request.path.strip("/")
        if path in ("healthz", "readyz", "livez"):
            return web.Response(text="ok")
        if path in self._documents:
            return web.json_response(self._documents[path])
        kind, namespace, name = self._parse(path)
        if name is None:
            return await self._collection(request, kind, namespace)
        return await self._single(request, Place(kind, namespace, name))

    def _parse(self, path: str) -> tuple[Kind, str | None, str | None]:
        """`api/v1/[namespaces/NS/]PLURAL[/NAME]`, or the same under `apis/GROUP/VERSION`."""
        parts = path.split("/")
        depth = 2 if parts[0] == "api" else 3
        prefix, rest = "/".join(parts[:depth]), parts[depth:]
        namespace = None
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        if not rest or (prefix, rest[0]) not in self._kinds:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        return self._kinds[prefix, rest[0]], namespace, rest[1] if len(rest) > 1 else None

    async def _collection(
        self, request: web.Request, kind: Kind, namespace: str | None
    ) -> web.StreamResponse:
        if request.method == "POST":
            item = self._checked(kind, _read(await request.read()))
            place = Place(kind, namespace, item["metadata"]["name"])
            return web.json_response(self._kept(request, place, item, new=True), status=201)
        if request.query.get("watch") in ("true", "1"):
            return await self._watch(request, kind, namespace)
        return web.json_response(
            {
                "kind": f"{kind.name}List",
                "apiVersion": kind.api_version,
                "metadata": {"resourceVersion": str(self._store.version)},
                "items": self._store.find(kind, namespace, request.query),
            }
        )

    async def _single(self, request: web.Request, place: Place) -> web.StreamResponse:
        match request.method:
            case "GET":
                return web.json_response(self._store.get(place))
            case "DELETE":
                self._store.delete(place)
                return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})
            case "PUT":
                item = self._checked(place.kind, _read(await request.read()))
                return web.json_response(self._kept(request, place, item))
            case "PATCH":
                return web.json_response(self._kept(request, place, await self._patched(request, place)))
        raise ApiError(405, "MethodNotAllowed", request.method)

    async def _patched(self, request: web.Request, place: Place) -> Item:
        patch = _read(await request.read())
        if request.content_type == _APPLY:
            # One manager owns everything here, so what an apply leaves out is removed.
            return self._checked(place.kind, patch)
        old = copy.deepcopy(self._store.get(place))
        old.pop("status", None)
        if request.content_type == _STRATEGIC and place.kind.schema:
            return self._checked(place.kind, strategic_merge(old, patch))
        if request.content_type == _MERGE:
            return self._checked(place.kind, merge(old, patch))
        raise ApiError(415, "UnsupportedMediaType", f"no {request.content_type} for {place.kind.name}")

    def _checked(self, kind: Kind, item: Item) -> Item:
        item.setdefault("kind", kind.name)
        item.setdefault("apiVersion", kind.api_version)
        validate(kind, item, self._kubernetes)
        return item

    def _kept(self, request: web.Request, place: Place, item: Item, *, new: bool = False) -> Item:
        if place.namespace is not None:
            self._require_namespace(place.namespace)
        if "dryRun" in request.query:
            return item
        return self._store.create(place, item) if new else self._store.put(place, item)

    def _require_namespace(self, name: str) -> None:
        kind = self._kinds["api/v1", "namespaces"]
        if not self._store.find(kind, None, {"fieldSelector": f"metadata.name={name}"}):
            raise not_found("namespaces", name)

    async def _watch(self, request: web.Request, kind: Kind, namespace: str | None) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        watch = self._store.watch(kind, namespace)
        try:
            if request.query.get("sendInitialEvents") == "true":
                for item in self._store.find(kind, namespace, request.query):
                    await stream.write(_line({"type": "ADDED", "object": item}))
                await stream.write(_line(self._bookmark(kind)))
            while True:
                event = await watch.events.get()
                if selected(event["object"], request.query):
                    await stream.write(_line(event))
        except ConnectionError:
            return stream
        finally:
            self._store.unwatch(watch)

    def _bookmark(self, kind: Kind) -> dict[str, Any]:
        metadata = {
            "resourceVersion": str(self._store.version),
            "annotations": {"k8s.io/initial-events-end": "true"},
        }
        return {
            "type": "BOOKMARK",
            "object": {"kind": kind.name, "apiVersion": kind.api_version, "metadata": metadata},
        }


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _read(body: bytes) -> Item:
    try:
        item = protobuf.decode(body) if body.startswith(protobuf.MAGIC) else yaml.safe_load(body)
    except (ValueError, yaml.YAMLError) as error:
        raise ApiError(400, "BadRequest", f"cannot read the object: {error}") from error
    if not isinstance(item, dict):
        raise ApiError(400, "BadRequest", "the body is no object")
    return item


def _namespace(name: str) -> Item:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
