"""Which headers cross the proxy, in each direction, and which fields of a body steer an engine."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

from predictor.request import Api

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
_STEERING: Final = frozenset({"x-data-parallel-rank", "x-smg-routing-key", "endpoint-load-metrics-format"})
# SGLang's, where SGLANG_ENABLE_REQUEST_HEADER_OVERRIDES is set: request ids, ranks, priorities.
_OVERRIDES: Final = "x-override-"
# A key may be allowed to send these.
_PRIORITY: Final = frozenset({"x-vllm-priority", "x-override-priority"})
# The same in bodies: order, id at the engine (an abort names it), rank. `data_parallel_rank` is an old name.
_STEERING_FIELDS: Final = frozenset({"rid", "routed_dp_rank", "data_parallel_rank", "disagg_prefill_dp_rank"})
_PRIORITY_FIELD: Final = "priority"
# The id under which a response is stored; whoever chose it could replace another client's.
_RESPONSE_FIELDS: Final = frozenset({"request_id"})
# Host and length are made anew; the answer must stay readable, so no compression is asked for.
_REMADE: Final = frozenset({"host", "content-length", "accept-encoding", "expect"})
_NOT_TO_ENGINE: Final = _HOP_BY_HOP | _STEERING | _REMADE
_KEYS: Final = frozenset({"authorization", "x-api-key"})
_NOT_TO_CLIENT: Final = _HOP_BY_HOP | {"content-length"}
_OURS: Final = "x-headway-"


def to_engine(
    headers: CIMultiDictProxy[str],
    added: dict[str, str],
    api_key: str | None,
    *,
    pass_key: bool = True,
    may_set_priority: bool = False,
) -> CIMultiDict[str]:
    """The headers of the engine's request: the client's, less those of its connection and those that steer.

    The client's key goes on only where `pass_key` says so and there is no `api_key` to take its place.
    """
    pass_key = pass_key and api_key is None
    kept = CIMultiDict(
        [
            (name, value if value.isascii() else _readable(value))
            for name, value in headers.items()
            if _goes_to_engine(name, pass_key, may_set_priority)
        ]
    )
    _drop_listed(kept, headers.getall("Connection", ()))
    kept.update(added)
    kept["Accept-Encoding"] = "identity"
    if api_key is not None:
        kept["Authorization"] = f"Bearer {api_key}"
    return kept


# Everybody sends the same few names again and again; the bound is for those who do not.
@lru_cache(maxsize=512)
def _goes_to_engine(name: str, pass_key: bool, may_set_priority: bool) -> bool:
    low = name.lower()
    if low in _PRIORITY:
        return may_set_priority
    if low in _KEYS:
        return pass_key
    return low not in _NOT_TO_ENGINE and not low.startswith((_OURS, _OVERRIDES))


@lru_cache(maxsize=512)
def _goes_to_client(name: str) -> bool:
    low = name.lower()
    return low not in _NOT_TO_CLIENT and not low.startswith(_OURS)


def names_priority(headers: CIMultiDictProxy[str]) -> bool:
    """Whether a client says by header how soon the engine should take its request."""
    return any(name in headers for name in _PRIORITY)


def steering_fields(api: Api | None, *, may_set_priority: bool) -> frozenset[str]:
    """The top-level body fields that no client's request may carry to an engine; `api` None: not scheduled."""
    fields = _STEERING_FIELDS | _RESPONSE_FIELDS if api is Api.RESPONSES else _STEERING_FIELDS
    return fields if may_set_priority else fields | {_PRIORITY_FIELD}


def to_client(headers: CIMultiDictProxy[str], ours: dict[str, str]) -> CIMultiDict[str]:
    """The headers of the client's answer: the engine's, less those of its connection, and our own."""
    kept = CIMultiDict(
        [
            (name, value if value.isascii() else _readable(value))
            for name, value in headers.items()
            if _goes_to_client(name)
        ]
    )
    _drop_listed(kept, headers.getall("Connection", ()))
    kept.update(ours)
    return kept


def _drop_listed(kept: CIMultiDict[str], connection: Iterable[str]) -> None:
    """Take out the headers that a Connection header declares to be of this hop only."""
    for value in connection:
        for name in value.split(","):
            kept.popall(name.strip(), None)


def _readable(value: str) -> str:
    """A value with bytes that are no UTF-8, which aiohttp could not send on, read as Latin-1."""
    raw = value.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
