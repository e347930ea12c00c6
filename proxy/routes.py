"""The allow-list: every path a client may reach, and what happens there. Everything else is a 404."""

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
    """One allowed path. `api` is set for scheduled routes."""

    method: str
    path: str
    handling: Handling
    api: Api | None = None


def _table() -> dict[str, Route]:
    scheduled = [Route("POST", api.value, Handling.SCHEDULE, api) for api in (Api.CHAT, Api.COMPLETIONS)]
    passed = [
        Route("POST", path, Handling.RELAY)
        for path in (
            "/v1/embeddings",
            "/v1/score",
            "/v1/rerank",
            "/v1/classify",
            "/v1/tokenize",
            "/v1/detokenize",
            "/v1/messages/count_tokens",
            "/v1/audio/transcriptions",
            "/v1/audio/translations",
            "/embeddings",
            "/score",
            "/rerank",
            "/classify",
            "/pooling",
            "/tokenize",
            "/detokenize",
        )
    ]
    passed.append(Route("GET", "/v1/models", Handling.RELAY))
    own = [Route("GET", path, Handling.OWN) for path in ("/healthz", "/readyz", "/health", "/metrics")]
    return {route.path: route for route in (*scheduled, *passed, *own)}


ROUTES: Final = _table()


def find_route(path: str) -> Route | None:
    """The route of an exact path; None where it is not on the list."""
    return ROUTES.get(path)
