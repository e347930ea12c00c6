"""Which headers cross the proxy, in each direction."""

from collections.abc import Iterable
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

REQUEST_ID: Final = "x-headway-request-id"
PREDICTED_TOKENS: Final = "x-headway-predicted-tokens"
QUEUE_MS: Final = "x-headway-queue-ms"
POLICY: Final = "x-headway-policy"
ARTIFACT: Final = "x-headway-artifact"

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# They steer the engine's order, its data-parallel rank or its caches; no client may.
_STEERING: Final = frozenset(
    {
        "x-vllm-priority",
        "x-override-priority",
        "x-data-parallel-rank",
        "x-smg-routing-key",
        "endpoint-load-metrics-format",
    }
)
# Host and length are made anew; the answer must stay readable, so no compression is asked for.
_REMADE: Final = frozenset({"host", "content-length", "accept-encoding", "expect"})
_NOT_TO_ENGINE: Final = _HOP_BY_HOP | _STEERING | _REMADE
_KEYS: Final = frozenset({"authorization", "x-api-key"})
_NOT_TO_CLIENT: Final = _HOP_BY_HOP | {"content-length"}
_OURS: Final = "x-headway-"


def to_engine(
    headers: CIMultiDictProxy[str], added: dict[str, str], api_key: str | None, *, pass_key: bool = True
) -> CIMultiDict[str]:
    """The headers of the engine's request.

    The client's key goes on only where `pass_key` says so and there is no `api_key` to take its place.
    """
    dropped = _NOT_TO_ENGINE if pass_key and api_key is None else _NOT_TO_ENGINE | _KEYS
    named = _listed(headers.getall("Connection", ()))
    kept = CIMultiDict(
        (name, value if value.isascii() else _readable(value))
        for name, value in headers.items()
        if (low := name.lower()) not in dropped and not low.startswith(_OURS) and low not in named
    )
    kept.update(added)
    kept["Accept-Encoding"] = "identity"
    if api_key is not None:
        kept["Authorization"] = f"Bearer {api_key}"
    return kept


def to_client(headers: CIMultiDictProxy[str], ours: dict[str, str]) -> CIMultiDict[str]:
    """The headers of the client's answer: the engine's, less those of its connection, and our own."""
    named = _listed(headers.getall("Connection", ()))
    kept = CIMultiDict(
        (name, value if value.isascii() else _readable(value))
        for name, value in headers.items()
        if (low := name.lower()) not in _NOT_TO_CLIENT and not low.startswith(_OURS) and low not in named
    )
    kept.update(ours)
    return kept


def _listed(connection: Iterable[str]) -> frozenset[str]:
    """The header names that a Connection header declares to be of this hop only."""
    return frozenset(name.strip().lower() for value in connection for name in value.split(","))


def _readable(value: str) -> str:
    """A value with bytes that are no UTF-8, which aiohttp could not send on, read as Latin-1."""
    raw = value.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
