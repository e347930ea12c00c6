"""The allow-list: every path a client may reach, and what happens there. Everything else is a 404."""

import re
from enum import Enum
from typing import Final

import msgspec

from predictor.request import Api


class Handling(Enum):
    """What the proxy does with a route."""

    SCHEDULE = "scheduled"
    RELAY = "relayed, not scheduled"
    OWN = "answered by Headway"


class Route(msgspec.Struct, frozen=True):
    """One allowed path, with its variable parts by name. `api` is set for scheduled routes."""

    method: str
    path: str
    handling: Handling
    api: Api | None = None

    @property
    def takes_json(self) -> bool:
        """Whether the engine reads the body as JSON; recorded speech comes as a form, in which nothing steers."""
        return not self.path.startswith(_AUDIO)

    def path_for(self, path: str) -> str:
        """The engine's path for a client's: the route's own, unless a part of it varies."""
        return path if "{" in self.path else self.path

    def response_id(self, path: str) -> str | None:
        """Which stored response a path names; None for routes that name none."""
        return path.split("/")[3] if self.path.startswith(_STORED) else None


_AUDIO: Final = "/v1/audio/"
_STORED: Final = "/v1/responses/{id}"
# Names of models may hold slashes.
_PARTS: Final = {"{id}": r"[A-Za-z0-9._:-]{1,256}", "{model}": r"[A-Za-z0-9._:@/-]{1,256}"}
# Segments that somebody could read as another path.
_ODD: Final = frozenset({"", ".", ".."})
_RELAYED: Final = (
    "/v1/embeddings",
    "/v1/score",
    "/v1/rerank",
    "/v1/classify",
    "/v1/tokenize",
    "/v1/detokenize",
    "/v1/messages/count_tokens",
    *(f"{_AUDIO}{task}" for task in ("transcriptions", "translations")),
    "/embeddings",
    "/score",
    "/rerank",
    "/classify",
    "/pooling",
    "/tokenize",
    "/detokenize",
    f"{_STORED}/cancel",
)
_RELAYED_GET: Final = ("/v1/models", "/v1/models/{model}", _STORED)
_OWN: Final = ("/healthz", "/readyz", "/health", "/metrics")


def _table() -> dict[str, Route]:
    routes = (
        *(Route("POST", api.value, Handling.SCHEDULE, api) for api in Api),
        *(Route("POST", path, Handling.RELAY) for path in _RELAYED),
        *(Route("GET", path, Handling.RELAY) for path in _RELAYED_GET),
        *(Route("GET", path, Handling.OWN) for path in _OWN),
    )
    return {route.path: route for route in routes}


def _pattern(path: str) -> re.Pattern[str]:
    for name, part in _PARTS.items():
        path = path.replace(name, part)
    return re.compile(path)


ROUTES: Final = _table()
_PATTERNS: Final = tuple((_pattern(path), route) for path, route in ROUTES.items() if "{" in path)


def find_route(path: str) -> Route | None:
    """The route of a path; None where it is not on the list."""
    if "{" in path or _ODD.intersection(path.split("/")[1:]):
        return None
    found = ROUTES.get(path)
    return found or next((route for pattern, route in _PATTERNS if pattern.fullmatch(path)), None)
