"""Bad bodies get a clear refusal in the OpenAI shape with the right status; good ones go on untouched."""

import json
import zlib
from typing import Any

import msgspec
import pytest
from harness import (
    CHAT,
    COMPLETIONS,
    ask_raw,
    chat,
    error_of,
    eventually,
    outcomes,
    post,
    proxy_before,
    raw_client,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictor.request import Api
from proxy.app import Headway
from proxy.errors import HeadwayError
from proxy.ingress import STEERED_FIELDS, parse_body
from training.emulator import EmulatedEngine

MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'


def with_field(field: bytes) -> bytes:
    """A good chat body with one more field."""
    return b"{%b,%b}" % (MESSAGES, field)


BAD = [
    (b"", 400, "invalid_json"),
    (b"hello", 400, "invalid_json"),
    (b"{", 400, "invalid_json"),
    (b"{}x", 400, "invalid_json"),
    (b"\xef\xbb\xbf{}", 400, "invalid_json"),
    (b"null", 400, "invalid_request"),
    (b"[]", 400, "invalid_request"),
    (b'"text"', 400, "invalid_request"),
    (b"[" * 100_000, 400, "invalid_request"),
    (with_field(b'"n":1' + b"0" * 400), 400, "invalid_request"),
    (with_field(b'"max_tokens":-9223372036854775809'), 400, "invalid_request"),
    (with_field(b'"priority":9223372036854775808'), 400, "invalid_request"),
    (with_field(b'"x":' + b"[" * 100_000 + b"]" * 100_000), 400, "invalid_json"),
    (with_field(b'"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000), 400, "invalid_json"),
    (with_field(b'"temperature":NaN'), 400, "invalid_json"),
    (with_field(b'"temperature":Infinity'), 400, "invalid_json"),
    (with_field(b'"temperature":-Infinity'), 400, "invalid_json"),
    (with_field(b'"unknown":NaN'), 400, "invalid_json"),
    (with_field(b'"temperature":1e999'), 400, "invalid_request"),
    (with_field(b'"model":"\xff"'), 400, "invalid_json"),
    (with_field(b'"unknown":"\xff"'), 400, "invalid_json"),
    (with_field(b'"\xff":1'), 400, "invalid_json"),
    (with_field(b'"unknown":"\xed\xa0\x80"'), 400, "invalid_json"),
    (with_field(b'"max_tokens":"many"'), 400, "invalid_request"),
    (with_field(b'"max_tokens":1.5'), 400, "invalid_request"),
    (with_field(b'"stream":[]'), 400, "invalid_request"),
    (with_field(b'"stream":"perhaps"'), 400, "invalid_request"),
    (with_field(b'"stream_options":7'), 400, "invalid_request"),
    (with_field(b'"priority":"high"'), 400, "invalid_request"),
    (with_field(b'"priority":1.5'), 400, "invalid_request"),
    (with_field(b'"n":{}'), 400, "invalid_request"),
    (with_field(b'"model":7'), 400, "invalid_request"),
    (with_field(b'"stop":{"a":1}'), 400, "invalid_request"),
    (b"{}", 400, "invalid_request"),
    (b'{"messages":[]}', 400, "invalid_request"),
    (b'{"messages":null}', 400, "invalid_request"),
    (b'{"messages":"hi"}', 400, "invalid_request"),
    (b'{"messages":[7]}', 400, "invalid_request"),
    (b'{"messages":[{"role":"user","content":{"a":1}}]}', 400, "invalid_request"),
    (b'{"prompt":"hi"}', 400, "invalid_request"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD)
async def test_a_bad_body_is_refused_clearly(headway: Headway, body: bytes, status: int, code: str) -> None:
    """Whatever is wrong with a body: 4xx, the OpenAI error shape, do not retry, exactly one end."""
    got = await ask_raw(headway, post(CHAT, body))
    assert got.status == status
    error = error_of(got.body, code)
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]
    assert got.header("x-should-retry") == "false"
    assert got.header("x-headway-request-id")
    assert await outcomes(headway) == {"refused_invalid": 1}


@pytest.mark.parametrize("field", STEERED_FIELDS)
async def test_a_doubled_steered_field_is_refused(headway: Headway, field: str) -> None:
    """Parsers disagree on doubled fields, so none that steers may come twice."""
    got = await ask_raw(headway, post(CHAT, with_field(f'"{field}":null,"{field}":null'.encode())))
    assert got.status == 400
    assert error_of(got.body, "duplicate_field")["param"] == field


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (with_field(b'"max_tokens":"x"'), "max_tokens"),
        (b'{"messages":[{"role":"user","content":7}]}', "messages[0].content"),
        (b"{}", "messages"),
    ],
)
def test_the_refusal_names_the_field(body: bytes, param: str) -> None:
    """`param` says where to look."""
    with pytest.raises(HeadwayError) as caught:
        parse_body(body, Api.CHAT)
    assert caught.value.param == param


GOOD = [
    with_field(b'"max_tokens":"7"'),
    with_field(b'"max_tokens":7.0'),
    with_field(b'"stream":"false"'),
    with_field(b'"unknown":{"deep":[1,2,{"x":"\\ud83d\\ude42"}]}'),
    with_field(b'"seed":' + b"9" * 4000),
    with_field(b'"tools":[{"type":"function","function":{"name":"f","parameters":{}}}]'),
    with_field(
        b'"reasoning":"high","thinking":true,"input":5,"prompt":{},"system":[5],"sampling_params":"x"'
    ),
    b' \n{ "messages" : [ {"role":"user","content":[{"type":"text","text":"hi"}]} ] } \r\n',
    b'{"messages":[{"role":"assistant","content":null,"tool_calls":[]},{"role":"tool","content":"x"}]}',
]


@pytest.mark.parametrize("body", GOOD)
async def test_what_engines_take_reaches_the_engine_as_sent(
    engine: EmulatedEngine, headway: Headway, body: bytes
) -> None:
    """Numbers as text, odd white space, unknown fields, long numbers: the engine gets the client's bytes."""
    await ask_raw(headway, post(CHAT, body))
    assert [received.body for received in engine.received] == [body]


@pytest.mark.parametrize("value", [b"-9223372036854775808", b"9223372036854775807"])
async def test_a_clients_priority_stays_here(engine: EmulatedEngine, headway: Headway, value: bytes) -> None:
    """Whatever int64 a client asks for, the engine gets its body without it."""
    await ask_raw(headway, post(CHAT, with_field(b'"priority":' + value)))
    assert [received.body for received in engine.received] == [with_field(b"").replace(b",}", b"}")]


@pytest.mark.parametrize("prompt", ['"text"', '["a","b"]', "[1,2,3]", "[[1,2],[3]]"])
async def test_all_kinds_of_prompts_pass(headway: Headway, prompt: str) -> None:
    """Completions take text, texts, token ids and lists of token ids."""
    got = await ask_raw(headway, post(COMPLETIONS, f'{{"prompt":{prompt}}}'.encode()))
    assert got.status == 200


async def test_a_body_too_long_is_refused_before_it_is_read(engine: EmulatedEngine) -> None:
    """An announced length beyond the limit is a 413 at once: nothing of it is waited for or kept."""
    async with proxy_before(engine.url, max_body_bytes=1000) as headway, raw_client(headway) as client:
        await client.send(post(CHAT, b"").replace(b"Content-Length: 0", b"Content-Length: 1001"))
        got = await client.answer()
        assert got.status == 413
        assert "max_body_bytes" in error_of(got.body, "body_too_large")["message"]
        assert await outcomes(headway) == {"refused_invalid": 1}


async def test_a_chunked_body_too_long_is_refused(engine: EmulatedEngine) -> None:
    """A body that does not say how long it is is cut off at the limit."""
    async with proxy_before(engine.url, max_body_bytes=1000) as headway, raw_client(headway) as client:
        await client.send(chunked_head() + b"".join(b"ff\r\n" + b"x" * 255 + b"\r\n" for _ in range(9)))
        got = await client.answer()
        assert got.status == 413
        error_of(got.body, "body_too_large")


async def test_a_body_at_the_limit_passes(engine: EmulatedEngine) -> None:
    """The limit itself is allowed."""
    body = chat("x" * 500)
    async with proxy_before(engine.url, max_body_bytes=len(body)) as headway:
        assert (await ask_raw(headway, post(CHAT, body))).status == 200


async def test_a_body_that_never_ends_is_timed_out(engine: EmulatedEngine) -> None:
    """A client that stops sending gets a 408 after `body_timeout_s` and holds nothing."""
    async with proxy_before(engine.url, body_timeout_s=0.1) as headway, raw_client(headway) as client:
        await client.send(post(CHAT, b"{").replace(b"Content-Length: 1", b"Content-Length: 100"))
        got = await client.answer()
        assert got.status == 408
        assert got.header("x-should-retry") == "false"
        error_of(got.body, "body_timeout")
        assert await outcomes(headway) == {"refused_invalid": 1}


def chunked_head(*headers: str) -> bytes:
    """The head of a chunked chat request."""
    lines = [f"POST {CHAT} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()


async def test_a_chunked_body_reaches_the_engine_whole(engine: EmulatedEngine, headway: Headway) -> None:
    """Clients that do not know the length beforehand are served; the engine gets a plain length."""
    body = chat("chunk by chunk")
    pieces = [body[start : start + 7] for start in range(0, len(body), 7)]
    sent = (
        b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        + b"0\r\nX-Trailer: 1\r\n\r\n"
    )
    got = await ask_raw(headway, chunked_head() + sent)
    assert got.status == 200
    assert engine.received[0].body == body
    assert engine.received[0].headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP", "identity, gzip", "x-unknown"])
async def test_compressed_bodies_are_refused(headway: Headway, encoding: str) -> None:
    """No engine takes them, and a small compressed body could be a huge plain one."""
    body = zlib.compress(chat(), wbits=31)
    got = await ask_raw(headway, post(CHAT, body, f"Content-Encoding: {encoding}"))
    assert got.status == 415
    assert "uncompressed" in error_of(got.body, "unsupported_encoding")["message"]


async def test_identity_is_no_compression(headway: Headway) -> None:
    """`Content-Encoding: identity` says nothing and is served."""
    got = await ask_raw(headway, post(CHAT, chat(), "Content-Encoding: Identity"))
    assert got.status == 200


async def test_a_client_that_asks_before_it_sends_is_answered(headway: Headway) -> None:
    """`Expect: 100-continue` (curl with a long body) gets its 100 at once, then the answer."""
    body = chat()
    head, _, _ = post(CHAT, body, "Expect: 100-continue").partition(b"\r\n\r\n")
    async with raw_client(headway) as client:
        await client.send(head + b"\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await client.answer()).status == 200


async def test_a_client_that_asks_in_vain_is_told_so(engine: EmulatedEngine) -> None:
    """A body that would be refused is refused before it is sent."""
    async with proxy_before(engine.url, max_body_bytes=10) as headway, raw_client(headway) as client:
        await client.send(post(CHAT, chat(), "Expect: 100-continue").partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        assert (await client.answer()).status == 413


async def test_a_client_that_leaves_while_it_sends_is_one_end(headway: Headway) -> None:
    """A connection lost in mid-body is counted once, as a client that has gone."""
    async with raw_client(headway) as client:
        await client.send(post(CHAT, chat())[:-5])
        client.reset()

    async def counted() -> bool:
        return await outcomes(headway) == {"client_gone": 1}

    await eventually(counted)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
fields = st.sampled_from(
    [*STEERED_FIELDS, "messages", "prompt", "input", "tools", "stop", "temperature", "x"]
)
bodies = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(fields, json_values, max_size=6).map(lambda body: json.dumps(body).encode()),
    st.dictionaries(fields, json_values, max_size=6).map(
        lambda body: json.dumps(body | {"messages": [{"role": "user", "content": "x"}]}).encode()
    ),
)


@settings(max_examples=400)
@given(raw=bodies, api=st.sampled_from([Api.CHAT, Api.COMPLETIONS, Api.RESPONSES]))
def test_any_body_is_read_or_refused(raw: bytes, api: Api) -> None:
    """No body makes anything but a request or a refusal, and what is read is valid JSON."""
    try:
        parse_body(raw, api)
    except HeadwayError as error:
        assert 400 <= error.http_status < 500
        msgspec.json.decode(error.body())
    else:
        json.loads(raw)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=bodies)
async def test_any_body_gets_one_clear_answer(headway: Headway, raw: bytes) -> None:
    """Through the whole proxy: every body gets an answer that is JSON, none of them a 500."""
    before = sum((await outcomes(headway)).values())
    got: Any = await ask_raw(headway, post(CHAT, raw))
    assert got.status < 500
    assert got.body
    assert sum((await outcomes(headway)).values()) == before + 1
