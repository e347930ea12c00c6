"""The published table of the settings: names, defaults, descriptions, out of the struct itself."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec


def describe(struct: type[msgspec.Struct]) -> Iterator[tuple[str, str, str]]:
    """Name, default and description of each field of a settings struct."""
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        yield field.encode_name, _default(field), _description(hints[field.name])


def choices(struct: type[msgspec.Struct], field: str) -> tuple[str, ...]:
    """The words that a field takes; empty where it takes others too, or is none."""
    return _words(get_type_hints(struct, include_extras=True).get(field))


def _words(hint: Any) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((found for part in get_args(hint) if (found := _words(part))), ())


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.name == "state":
        return "`$XDG_STATE_HOME/headway`"
    if field.required:
        return "required"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return "" if field.default in (None, (), msgspec.NODEFAULT) else f"`{field.default}`"


def _description(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        for note in get_args(hint)[1:]:
            if isinstance(note, msgspec.Meta) and note.description:
                return str(note.description)
    return ""
