"""Clients of client-go may send Secrets as protobuf; this reads just enough of its wire format (proto2)."""

import base64
from collections import defaultdict
from typing import Any, Final

MAGIC: Final = b"k8s\x00"
# Field numbers from k8s.io/apimachinery's and k8s.io/api's generated.proto.
_TYPE_META, _RAW = 1, 2
_KIND = 2
_METADATA, _DATA, _SECRET_TYPE = 1, 2, 3
_NAME, _LABELS, _ANNOTATIONS = 1, 11, 12


def decode(body: bytes) -> dict[str, Any]:
    """The manifest of a Secret or ConfigMap. Raises ValueError for any other kind."""
    unknown = _fields(body.removeprefix(MAGIC))
    kind = _text(_fields(unknown[_TYPE_META][0])[_KIND][0])
    item = _fields(unknown[_RAW][0])
    metadata = _fields(item[_METADATA][0])
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {
            "name": _text(metadata[_NAME][0]),
            "labels": {key: _text(value) for key, value in _map(metadata[_LABELS]).items()},
            "annotations": {key: _text(value) for key, value in _map(metadata[_ANNOTATIONS]).items()},
        },
    }
    if kind == "Secret":
        manifest["type"] = _text(item[_SECRET_TYPE][0]) if item[_SECRET_TYPE] else "Opaque"
        manifest["data"] = {k: base64.b64encode(v).decode() for k, v in _map(item[_DATA]).items()}
    elif kind == "ConfigMap":
        manifest["data"] = {key: _text(value) for key, value in _map(item[_DATA]).items()}
    else:
        raise ValueError(f"protobuf is read for Secrets and ConfigMaps, not for {kind}")
    return manifest


def _fields(body: bytes) -> defaultdict[int, list[bytes]]:
    """The length-delimited fields of a message by number; the others are not needed here."""
    found: defaultdict[int, list[bytes]] = defaultdict(list)
    at = 0
    while at < len(body):
        tag, at = _varint(body, at)
        match tag & 7:
            case 0:
                _, at = _varint(body, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case _:
                size, at = _varint(body, at)
                found[tag >> 3].append(body[at : at + size])
                at += size
    return found


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _map(entries: list[bytes]) -> dict[str, bytes]:
    pairs = (_fields(entry) for entry in entries)
    return {_text(pair[1][0]): pair[2][0] if pair[2] else b"" for pair in pairs}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8")
