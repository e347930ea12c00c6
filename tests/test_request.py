"""One typed view of every dialect's body: read leniently as engines do, refused by path, sized without reading."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.request import Part, body_from_dict, decode_body, prompt_characters


def decoded(**fields: Any) -> Any:
    """A body of these fields."""
    return decode_body(json.dumps(fields, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": "7"}, 7),
        ({"max_completion_tokens": 5, "max_tokens": 7}, 5),
        ({"max_output_tokens": 7}, 7),
        ({"sampling_params": {"max_new_tokens": 7}}, 7),
        ({"sampling_params": [{"max_new_tokens": 7}, {"max_new_tokens": 9}]}, 7),
        ({"sampling_params": []}, None),
    ],
)
def test_every_dialect_names_the_limit_its_own_way(fields: dict[str, Any], limit: int | None) -> None:
    """One number for the most output tokens, a number in quotes too, as engines read it."""
    assert decoded(**fields).token_limit == limit


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 1),
        ({"n": 4}, 4),
        ({"n": 0}, 1),
        ({"n": -3}, 1),
        ({"n": 2, "best_of": 5}, 5),
        ({"sampling_params": {"n": 3}}, 3),
    ],
)
def test_how_many_answers_the_engine_computes(fields: dict[str, Any], count: int) -> None:
    """At least one, and all that are computed, those that only compete included."""
    assert decoded(**fields).answer_count == count


def test_parts_may_be_of_any_kind() -> None:
    """Text, bare strings, media, tool results with other content: what is not read passes through."""
    parts = ["bare", {"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:"}}, {}]
    body = decoded(messages=[{"role": "user", "content": parts}])
    content = body.messages[0].content
    assert content[0] == "bare"
    assert [part.type for part in content[1:] if isinstance(part, Part)] == ["text", "image_url", "text"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": [{"role": "user"}, {"role": 5}]}, "messages[1].role"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"prompt": {}}, "prompt"),
        ({"stop": [1]}, "stop"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_by_its_path(fields: dict[str, Any], path: str) -> None:
    """The client learns which of its fields is wrong."""
    with pytest.raises(msgspec.ValidationError) as caught:
        decoded(**fields)
    assert f"$.{path}" in str(caught.value)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"7", b"\xff", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}']
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    """By DecodeError, or UnicodeDecodeError for text that is not UTF-8: both are ValueErrors, and nothing else."""
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        decode_body(raw)


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    """Any bytes are a body or a ValueError."""
    try:
        decode_body(raw)
    except ValueError:
        return


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.integers(0, 30))
def test_a_prompts_size_is_that_of_all_its_text(text: str, count: int) -> None:
    """Characters wherever they stand; four for each token id; a medium has none."""
    size = len(text)
    message = {"role": "user", "content": text}
    assert prompt_characters(decoded(messages=[message] * count)) == size * count
    parts = [{"type": "text", "text": text}, {"type": "image_url"}, text]
    assert prompt_characters(decoded(messages=[{"role": "user", "content": parts}])) == 2 * size
    assert prompt_characters(decoded(prompt=text, system=text, instructions=text)) == 3 * size
    assert prompt_characters(decoded(prompt=[text] * count)) == size * count
    assert prompt_characters(decoded(prompt=[1] * count)) == 4 * count
    assert prompt_characters(decoded(prompt=[[1, 2]] * count)) == 8 * count
    assert prompt_characters(decoded(input=[message] * count)) == size * count
    assert prompt_characters(decoded(text=text)) == size
    tool = {"type": "function", "x": text}
    assert prompt_characters(decoded(tools=[tool])) >= size


def test_a_dictionary_is_read_as_its_json_is() -> None:
    """A row of a lengths file and a request's bytes: one view."""
    fields = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "tools": [{"type": "function"}],
    }
    assert body_from_dict(fields) == decoded(**fields)
