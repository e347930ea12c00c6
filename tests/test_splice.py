"""Our fields go into a client's body without another byte of it changing; doubled fields are refused."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import DuplicateField
from proxy.splice import refuse_duplicates, splice, without_fields

NAMES = ("model", "stream", "priority")
USAGE = b'"stream_options":{"include_usage":true}'

space = st.text(" \t\r\n", max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), values, max_size=5)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A JSON object as some client may write it: odd white space, escaped or not."""
    document = draw(objects)
    separators = (draw(space) + "," + draw(space), draw(space) + ":" + draw(space))
    text = json.dumps(document, ensure_ascii=draw(st.booleans()), separators=separators)
    inner = draw(space) + text[1:-1] + draw(space)
    return (draw(space) + "{" + inner + "}" + draw(space)).encode("utf-8", "replace")


@given(raw=bodies(), value=st.integers())
@example(raw=b"{}", value=1)
@example(raw=b" { \n} \r\n\t", value=1)
@example(raw=b'{"a":{"b":{}}}', value=1)
@example(raw=b'{"a":"}"}', value=1)
@example(raw=b'{"a":"{\\"}{"}  ', value=1)
@example(raw=b'{"a":[{}]}', value=1)
def test_spliced_fields_are_added_and_every_byte_stays(raw: bytes, value: int) -> None:
    """The result is the client's object with our fields last; cutting them out gives the client's bytes."""
    before = json.loads(raw)
    result = splice(raw, (b'"priority":%d' % value, USAGE))
    expected = before | {"priority": value, "stream_options": {"include_usage": True}}
    assert json.loads(result) == expected
    assert list(json.loads(result))[-1] in (*before, "stream_options")
    end = raw.rindex(b"}")
    assert result.startswith(raw[:end])
    assert result.endswith(raw[end:])
    added = result[end : len(result) - len(raw[end:])]
    assert added.removeprefix(b",") == b'"priority":%d,' % value + USAGE


@given(raw=bodies())
def test_nothing_to_add_changes_nothing(raw: bytes) -> None:
    """Without a field of ours the engine gets the client's bytes."""
    assert splice(raw, ()) is raw


def escaped(name: str, place: int) -> str:
    """A name with one letter written as an escape."""
    return name[:place] + f"\\u{ord(name[place]):04x}" + name[place + 1 :]


@given(
    name=st.sampled_from(NAMES),
    first=values,
    second=values,
    others=objects,
    place=st.integers(0, 5),
    hidden=st.sampled_from([(False, False), (True, False), (False, True), (True, True)]),
)
def test_doubled_fields_are_refused_however_they_are_written(
    name: str, first: Any, second: Any, others: dict[str, Any], place: int, hidden: Any
) -> None:
    """A steered field that occurs twice is a refusal that names it, also where an escape hides it."""
    spelled = [escaped(name, place % len(name)) if hide else name for hide in hidden]
    pairs = [f'"{spelled[0]}":{json.dumps(first)}']
    pairs += [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in others.items() if key not in NAMES]
    pairs.append(f'"{spelled[1]}":{json.dumps(second)}')
    with pytest.raises(DuplicateField) as caught:
        refuse_duplicates(("{" + ",".join(pairs) + "}").encode(), NAMES)
    assert caught.value.param == name
    assert caught.value.http_status == 400


@given(document=objects, nested=st.lists(st.dictionaries(st.sampled_from(NAMES), values), max_size=3))
def test_nested_fields_of_the_same_name_are_nobodys_business(document: Any, nested: Any) -> None:
    """Names inside messages, tools or text may repeat as they like."""
    document = document | {"stream": True, "tools": nested, "text": '"stream":"stream"'}
    refuse_duplicates(json.dumps(document).encode(), NAMES)
    refuse_duplicates(b'{"tools":{"stream":1,"stream":2}}', NAMES)


def test_other_doubled_fields_are_the_engines_business() -> None:
    """Only fields by which somebody steers are looked at."""
    refuse_duplicates(b'{"user":"a","user":"b"}', NAMES)


def test_a_huge_number_beside_a_doubled_name_is_no_crash() -> None:
    """The exact look reads what the first decoder has read, numbers of any length included."""
    number = b"9" * 10_000
    refuse_duplicates(b'{"seed":%b,"a":"stream","b":["stream","\\u0061"]}' % number, NAMES)
    with pytest.raises(DuplicateField):
        refuse_duplicates(b'{"seed":%b,"stream":1,"stream":2}' % number, NAMES)


def test_escapes_in_the_text_cost_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text in other scripts, escaped as Python clients do by default, does not slow a request down."""
    monkeypatch.setattr("proxy.splice._refuse_duplicates_exactly", None)
    refuse_duplicates(json.dumps({"messages": "für 你好 🙂 \x00\x1f", "stream": True}).encode(), NAMES)


@given(
    pairs=st.lists(st.tuples(st.sampled_from([*NAMES, "messages", "x", ""]), values), max_size=6),
    spaces=st.lists(space, min_size=30, max_size=30),
    hides=st.lists(st.booleans(), min_size=6, max_size=6),
    ascii_only=st.booleans(),
)
def test_fields_are_taken_out_and_the_others_stay(
    pairs: list[tuple[str, Any]], spaces: list[str], hides: list[bool], ascii_only: bool
) -> None:
    """All occurrences of the named fields go, however they are spelled; the rest stays byte for byte."""
    gaps = iter(spaces)
    written = []
    for (name, value), hide in zip(pairs, hides, strict=False):
        spelled = escaped(name, 0) if hide and name else name
        text = json.dumps(value, ensure_ascii=ascii_only)
        written.append((name, f'"{spelled}"{next(gaps)}:{next(gaps)}{text}'))
    body = ",".join(next(gaps) + field + next(gaps) for _, field in written)
    raw = f"{next(gaps)}{{{body}{next(gaps)}}}{next(gaps)}".encode()
    result = without_fields(raw, NAMES)
    seen = json.loads(result, object_pairs_hook=list)
    assert [name for name, _ in seen] == [name for name, _ in pairs if name not in NAMES]
    for name, field in written:
        if name not in NAMES:
            assert field.encode() in result
    if all(name not in NAMES for name, _ in pairs):
        assert result == raw


@pytest.mark.parametrize(
    "raw",
    [
        b'{"priority":1',
        b'{"priority"',
        b'{"priority":1,',
        b'{"priority":[' + b"[" * 100_000,
        b'{"priority":"\xff"}',
        b'\xef\xbb\xbf{"priority":1}',
    ],
)
def test_what_cannot_be_read_carries_no_field_past(raw: bytes) -> None:
    """A body that we cannot read is refused: a lenient engine might find the field that we did not."""
    with pytest.raises(ValueError, match=r".+"):
        without_fields(raw, NAMES)
