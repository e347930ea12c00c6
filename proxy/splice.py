"""Adding and taking out fields of a client's JSON body without re-serialising it, and finding doubled fields."""

import json
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any, Final

from proxy.errors import DuplicateField

_WHITESPACE: Final = b" \t\r\n"
_OPENING_BRACE: Final = ord("{")
# An ASCII letter or underscore written as an escape; clients escape other scripts and controls, never these.
_ESCAPED_LETTER: Final = re.compile(rb"\\(?=u00[4-7])")
# Python's JSON reader skips it in bytes, so what follows it counts.
_BYTE_ORDER_MARK: Final = "\ufeff"
_SPACE: Final = re.compile(r"[ \t\r\n]*")
# Numbers stay text: Python refuses to convert very long ones.
_DECODER: Final = json.JSONDecoder(parse_int=str)


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


def without_fields(raw: bytes, names: Collection[str]) -> bytes:
    """The JSON object `raw` less its top-level fields called one of `names`; every other byte stays.

    Nearly every body has none of them, which costs one search for all names. Where one may be there, raises
    ValueError for a body that is not JSON in UTF-8, or nested too deeply to tell.
    """
    if not _in_quotes(frozenset(names)).search(raw) and not _ESCAPED_LETTER.search(raw):
        return raw
    text = raw.decode()
    if text.startswith(_BYTE_ORDER_MARK):
        raise ValueError("it begins with a byte order mark")
    if not text.lstrip(" \t\r\n").startswith("{"):
        return raw
    try:
        fields = list(_fields(text))
    except (IndexError, RecursionError) as error:
        raise ValueError("cut off, or nested too deeply") from error
    kept = [(start, end) for name, start, end in fields if name not in names]
    if len(kept) == len(fields):
        return raw
    first, last = fields[0][1], fields[-1][2]
    inside = ",".join(text[start:end] for start, end in kept)
    return (text[:first] + inside + text[last:]).encode()


def _fields(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, begin and end of each field at the top level of a JSON object, without the commas."""
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        name, end = _DECODER.raw_decode(text, at)
        colon = _skip(text, end)
        _, end = _DECODER.raw_decode(text, _skip(text, colon + 1))
        yield name, at, end
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    """The next place that is no whitespace."""
    match = _SPACE.match(text, at)
    return match.end() if match else at


def refuse_duplicates(raw: bytes, names: tuple[str, ...]) -> None:
    """Raise `DuplicateField` where one of `names` occurs twice at the top level of the JSON object `raw`.

    Finding the quoted names is enough for nearly every body; the exact look happens only where one occurs
    twice somewhere, or an escape could hide one.
    """
    found = _in_quotes(frozenset(names)).findall(raw)
    if len(found) != len(set(found)) or _ESCAPED_LETTER.search(raw):
        _refuse_duplicates_exactly(raw, names)


@cache
def _in_quotes(names: frozenset[str]) -> re.Pattern[bytes]:
    # One literal character and then groups: so `re` looks for the character with memchr, and a body of 20 MB
    # costs milliseconds.
    return re.compile(b'"(?:%b)(?=")' % b"|".join(re.escape(name).encode() for name in sorted(names)))


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
