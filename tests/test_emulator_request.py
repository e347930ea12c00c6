"""Whatever a client sends, the emulated engine answers or refuses; it never falls over."""

import json
from typing import Any

import aiohttp
import msgspec
import pytest
from emulation import CHAT, MESSAGES, chat, emulated, post, quick_profile
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
TURNS = st.lists(st.fixed_dictionaries({"role": st.text(), "content": JSON}), max_size=3)
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5)
PLAUSIBLE = st.fixed_dictionaries(
    {},
    optional={"messages": TURNS, "prompt": JSON, "input": st.text() | TURNS, "n": st.integers(-2, 3)},
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


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        (b'{"model": "x", "messages": [', 400, "Bad Request", "body.28"),
        (b"", 400, "Bad Request", "body"),
        (b"[1,2]", 400, "Bad Request", "body"),
        (b'{"model":"emulated"}', 400, "Bad Request", "body.messages"),
        (b'{"model":"nope","messages":[]}', 404, "NotFoundError", "model"),
        (b'{"messages":[],"priority":"high"}', 400, "Bad Request", "body.priority"),
        (b'{"messages":[],"priority":null}', 400, "Bad Request", "body.priority"),
        (b'{"messages":[],"priority":1.5}', 400, "Bad Request", "body.priority"),
        (b'{"messages":[],"priority":9223372036854775808}', 400, "Bad Request", "body.priority"),
        (
            b'{"messages":[],"stream_options":{"include_usage":true}}',
            400,
            "BadRequestError",
            "stream_options",
        ),
        (b'{"messages":[],"max_tokens":0}', 400, "BadRequestError", "max_tokens"),
        (b'{"messages":[],"max_tokens":5000}', 400, "BadRequestError", "input_tokens"),
        (b'{"messages":[],"n":2,"temperature":0}', 400, "BadRequestError", None),
    ],
)
async def test_bad_requests_are_refused_as_by_vllm(
    body: bytes, status: int, kind: str, param: str | None
) -> None:
    """Status, type, param and code of vLLM's error object; the engine keeps serving."""
    async with emulated() as engine:
        got, answer = await post(engine, CHAT, body)
        error = answer["error"]
        assert got == status == error["code"]
        assert (error["type"], error["param"]) == (kind, param)
        assert error["message"]
        assert (await post(engine, CHAT, chat()))[0] == 200


async def test_of_a_repeated_key_the_last_one_counts() -> None:
    """As Python's JSON reader does it in vLLM: a proxy must not be fooled by the first."""
    body = b'{"messages":[],"max_tokens":3,"ignore_eos":true,"priority":"x","priority":3,"max_tokens":2}'
    async with emulated() as engine:
        _, answer = await post(engine, CHAT, body)
        assert answer["usage"]["completion_tokens"] == 2


async def test_what_the_framework_refuses_has_its_own_shape() -> None:
    """Unknown routes, wrong methods and invalid UTF-8: `{"detail": …}`."""
    async with emulated() as engine, aiohttp.ClientSession() as session:
        async with session.get(engine.url + "/nope") as response:
            assert (response.status, await response.json()) == (404, {"detail": "Not Found"})
        async with session.get(engine.url + CHAT) as response:
            assert (response.status, await response.json()) == (405, {"detail": "Method Not Allowed"})
        status, body = await post(engine, CHAT, b'{"model":"\xff"}')
        assert (status, [*body]) == (400, ["detail"])
        assert (await post(engine, CHAT, b"{}", **{"content-type": "text/plain"}))[0] == 400


async def test_messages_errors_wear_anthropics_envelope() -> None:
    """`{"type": "error", "error": {type, message}}` once the request is past validation."""
    async with emulated() as engine:
        status, body = await post(engine, MESSAGES, chat(model="nope", max_tokens=3))
        assert (status, body["type"], body["error"]["type"]) == (404, "error", "NotFoundError")
