"""Adding our fields to a client's JSON body without re-serialising it, and finding doubled fields."""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from proxy.errors import DuplicateField

_WHITESPACE: Final = b" \t\r\n"
_OPENING_BRACE: Final = ord("{")
# An ASCII letter or underscore written as an escape; clients escape other scripts and controls, never these.
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[4-7]")


def splice(raw: bytes, fields: Iterable[bytes]) -> bytes:
    """Put `fields`, each `b'"name":value'`, last into the JSON object `raw`; every byte of `raw` stays.

    `raw` must be one valid JSON object (decode it first).
    """
    added = b",".join(fields)
    if not added:
        return raw
    end = raw.rindex(b"}")
    before = end - 1
    while raw[before] in _WHITESPACE:
        before -= 1
    separator = b"" if raw[before] == _OPENING_BRACE else b","
    return b"".join((raw[:end], separator, added, raw[end:]))


def refuse_duplicates(raw: bytes, names: tuple[str, ...]) -> None:
    """Raise `DuplicateField` where one of `names` occurs twice at the top level of the JSON object `raw`.

    Counting the quoted name is enough for nearly every body; the exact look happens only where a name occurs
    twice somewhere, or an escape could hide one.
    """
    repeated = any(raw.count(f'"{name}"'.encode()) > 1 for name in names)
    if repeated or _ESCAPED_LETTER.search(raw):
        _refuse_duplicates_exactly(raw, names)


def _refuse_duplicates_exactly(raw: bytes, names: tuple[str, ...]) -> None:
    outermost: list[tuple[str, Any]] = []

    def keep_last_object(pairs: list[tuple[str, Any]]) -> None:
        # The decoder closes the outermost object last, so the last pairs seen are the top level's.
        outermost[:] = pairs

    # Numbers stay text: Python refuses to convert very long ones.
    json.loads(raw, object_pairs_hook=keep_last_object, parse_int=str)
    keys = [key for key, _ in outermost]
    for name in names:
        if keys.count(name) > 1:
            message = f"The field '{name}' occurs {keys.count(name)} times; send it once."
            raise DuplicateField(message, param=name)
