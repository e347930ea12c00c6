"""Whatever a client sends, the emulated engine answers or refuses; it never falls over."""

import json
from typing import Any

import msgspec
import pytest
from emulation import quick_profile
from hypothesis import given
from hypothesis import strategies as st

from predictor.request import Api
from training.emulator import EmulatorConfig, Faults
from training.emulator.inference import Inference
from training.emulator.request import ApiError, EngineBody, decode_ask, decode_tokenize
from training.lengths import LengthTable

APIS = st.sampled_from([Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.MESSAGES])
FIELDS = sorted(field.name for field in msgspec.structs.fields(EngineBody))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.text(), "content": JSON}), max_size=3)
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5)
PLAUSIBLE = st.fixed_dictionaries(
    {},
    optional={"messages": MESSAGES, "prompt": JSON, "input": st.text() | MESSAGES, "n": st.integers(-2, 3)},
)


def inference() -> Inference:
    """An engine that is never run."""
    config = EmulatorConfig(profile=quick_profile(), max_num_queued_reqs=50)
    return Inference(config, LengthTable.of_lengths([3]))


@given(APIS, st.binary(max_size=40))
def test_bytes_are_refused_or_understood(api: Api, raw: bytes) -> None:
    """Any bytes: an ApiError with a 400, or a request."""
    try:
        decode_ask(api, raw, {})
    except ApiError as error:
        assert error.status == 400
        json.dumps(error.body())


@given(APIS, BODIES, PLAUSIBLE)
async def test_json_is_refused_or_served(api: Api, wild: dict[str, Any], plausible: dict[str, Any]) -> None:
    """Any JSON in any field: a refusal in vLLM's error shape, or sequences in the engine."""
    raw = json.dumps(wild | plausible).encode()
    engine = inference()
    try:
        ask = decode_ask(api, raw, {})
        answer, shape = engine.begin(ask, "\udcff", Faults(), None)
    except ApiError as error:
        assert error.status in (400, 404, 503)
        msgspec.json.encode(error.body())
        assert engine.model.num_running + engine.model.num_waiting == 0
    else:
        assert answer.choices
        msgspec.json.encode(shape.unary(list(answer.choices.values())))


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000", "\\udfff\\ud800 x"])
async def test_text_that_is_no_unicode_is_served(text: str) -> None:
    """Lone surrogates pass JSON and must not break hashing, counting or answering."""
    engine = inference()
    raw = b'{"messages":[{"role":"user","content":"%b"}]}' % text.encode()
    answer, _ = engine.begin(decode_ask(Api.CHAT, raw, {}), None, Faults(), None)
    assert len(answer.choices) == 1


@given(BODIES)
def test_tokenize_counts_or_refuses(body: dict[str, Any]) -> None:
    """/tokenize of anything."""
    try:
        assert decode_tokenize(json.dumps(body).encode())
    except ApiError as error:
        assert error.status == 400


@pytest.mark.parametrize(
    ("header", "body", "priority"),
    [({}, 5, 5), ({"X-Vllm-Priority": "-3"}, 5, -3), ({"X-Vllm-Priority": "soon"}, 5, 5), ({}, "7", 7)],
)
def test_the_header_beats_the_body(header: dict[str, str], body: object, priority: int) -> None:
    """And a header that is no number is passed over."""
    raw = json.dumps({"messages": [], "priority": body}).encode()
    assert decode_ask(Api.CHAT, raw, header).priority == priority


@pytest.mark.parametrize(
    ("api", "fields", "max_tokens"),
    [
        (Api.CHAT, {"messages": []}, None),
        (Api.CHAT, {"messages": [], "max_tokens": 5}, 5),
        (Api.CHAT, {"messages": [], "max_tokens": 5, "max_completion_tokens": 7}, 7),
        (Api.COMPLETIONS, {"prompt": "x"}, 16),
        (Api.RESPONSES, {"input": "x", "max_tokens": 3, "max_output_tokens": 9}, 9),
        (Api.MESSAGES, {"messages": [], "max_tokens": 4}, 4),
    ],
)
def test_every_dialect_names_its_limit_in_its_own_way(
    api: Api, fields: dict[str, Any], max_tokens: int | None
) -> None:
    """max_tokens, max_completion_tokens, max_output_tokens, and 16 for completions."""
    assert decode_ask(api, json.dumps(fields).encode(), {}).max_tokens == max_tokens


def test_nesting_bombs_are_refused() -> None:
    """JSON nested deeper than the reader's stack is a 400, not a crash."""
    with pytest.raises(ApiError):
        decode_ask(Api.CHAT, b'{"messages":' + b"[" * 200_000, {})
