"""Who asks: key to tenant and class, and what a client's headers may change of it."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from multidict import CIMultiDictProxy

from proxy.errors import InvalidRequest, UnknownKey
from proxy.scheduling.classes import ServiceClass

CLASS_HEADER: Final = "x-headway-class"
TENANT_HEADER: Final = "x-headway-tenant"
TTL_HEADER: Final = "x-headway-ttl"
DEFAULT_TENANT: Final = "default"
_LONGEST_TENANT: Final = 128
_LONGEST_TTL_S: Final = 7 * 24 * 3600.0


class KeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[keys]]` entry; the token itself is never stored."""

    sha256: Annotated[
        str,
        Meta(
            pattern="^[0-9a-fA-F]{64}$",
            description="SHA-256, in hex, of the token that clients send as Authorization: Bearer or x-api-key.",
        ),
    ]
    tenant: Annotated[str, Meta(min_length=1, max_length=128, description="On whose account it runs.")]
    class_name: Annotated[
        str | None,
        Meta(description="Its class; a client may ask for a worse one; absent: the default class."),
    ] = msgspec.field(name="class", default=None)
    weight: Annotated[float, Meta(gt=0, description="Its share beside other tenants.")] = 1.0
    max_running: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Most at the engines at once; absent: no limit.")
    ] = None
    max_waiting: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="Most waiting, beyond it 429; absent: no limit.")
    ] = None
    may_set_priority: Annotated[
        bool, Meta(description="Whether the client's own `priority` goes to the engine.")
    ] = False


class Identity(msgspec.Struct, frozen=True):
    """On whose account a request runs, how well, and until when it must have begun (seconds from arrival).

    `key`: SHA-256 of the client's key, empty where there are no keys.
    """

    tenant: str
    service: ServiceClass
    ttl_s: float | None
    may_set_priority: bool
    key: str = ""


class Identities:
    """Turns a request's headers into an identity."""

    def __init__(
        self,
        keys: Sequence[KeySettings],
        classes: Sequence[ServiceClass],
        *,
        default_class: str,
        trust_headers: bool,
    ) -> None:
        """Without `keys` everybody is one tenant. Raises ValueError where a key names an unknown class."""
        self._classes = {service.name: service for service in classes}
        for key in keys:
            if key.class_name is not None and key.class_name not in self._classes:
                raise ValueError(
                    f"the key of tenant {key.tenant} names the unknown class '{key.class_name}': "
                    f"there are {', '.join(self._classes)}"
                )
        if default_class not in self._classes:
            raise ValueError(f"default_class '{default_class}' is none of {', '.join(self._classes)}")
        self._keys = {key.sha256.lower(): key for key in keys}
        self._default_class = default_class
        self._anybody = KeySettings(sha256="0" * 64, tenant=DEFAULT_TENANT)
        self._trust_headers = trust_headers

    @property
    def uses_keys(self) -> bool:
        """Whether the client's Authorization is a key of ours (and so never the engine's)."""
        return bool(self._keys)

    def identify(self, headers: CIMultiDictProxy[str]) -> Identity:
        """Raises UnknownKey, or InvalidRequest for a header that cannot be read."""
        key = self._key(headers)
        own = self._classes[key.class_name or self._default_class]
        service = self._class(headers.get(CLASS_HEADER), own)
        tenant = headers.get(TENANT_HEADER) if self._trust_headers else None
        if tenant is not None and not 0 < len(tenant) <= _LONGEST_TENANT:
            raise InvalidRequest(f"{TENANT_HEADER} must have 1 to {_LONGEST_TENANT} characters.")
        ttl_s = _ttl(headers.get(TTL_HEADER))
        if ttl_s is None and service.ttl_us is not None:
            ttl_s = service.ttl_us / 1e6
        return Identity(tenant or key.tenant, service, ttl_s, key.may_set_priority, key.sha256.lower())

    def _key(self, headers: CIMultiDictProxy[str]) -> KeySettings:
        if not self._keys:
            return self._anybody
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = headers.get("Authorization", "")
        token = token.strip() or headers.get("x-api-key", "").strip()
        key = self._keys.get(hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest())
        if key is None:
            raise UnknownKey("This proxy does not know the API key that was sent.")
        return key

    def _class(self, asked: str | None, own: ServiceClass) -> ServiceClass:
        """The class that was asked for where it is no better than the key's own, else the key's own."""
        if asked is None:
            return own
        service = self._classes.get(asked)
        if service is None:
            raise InvalidRequest(f"{CLASS_HEADER}: '{asked[:64]}' is none of {', '.join(self._classes)}.")
        return max(service, own, key=lambda one: one.rank)


def _ttl(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        ttl_s = float(text)
    except ValueError:
        ttl_s = float("nan")
    if not 0 < ttl_s <= _LONGEST_TTL_S:
        raise InvalidRequest(f"{TTL_HEADER} must be seconds between 0 and {_LONGEST_TTL_S:g}, such as 2.5.")
    return ttl_s
