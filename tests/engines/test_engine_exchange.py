"""On real engines, each API: what a client receives is what the engine sent, and what it would have sent anyway."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from crowd import eventually, headway_before, on
from real_engines import EngineUnderTest
from recording_relay import RecordingRelay

from predictor.request import Api
from predictor.traffic_store import read_records

pytestmark = pytest.mark.engines

PROMPT = "Name the capital of France in one word."
USER = [{"role": "user", "content": PROMPT + " 0.5"}]
SAMPLING = {"temperature": 0}
BODIES: dict[str, dict[str, Any]] = {
    Api.CHAT: {"messages": USER, "max_tokens": 12, **SAMPLING},
    Api.COMPLETIONS: {"prompt": PROMPT, "max_tokens": 12, **SAMPLING},
    Api.RESPONSES: {"input": USER, "max_output_tokens": 12, **SAMPLING},
    Api.MESSAGES: {"messages": USER, "max_tokens": 12, **SAMPLING},
    Api.GENERATE: {"text": PROMPT, "sampling_params": {"max_new_tokens": 12, **SAMPLING}},
}
ROUTES = [
    (kind, api) for kind in ("vllm", "sglang") for api in BODIES if (kind, api) != ("vllm", Api.GENERATE)
]
each_route = pytest.mark.parametrize(("real", "api"), ROUTES, indirect=["real"], scope="session")
# What differs from one answer to the next, whoever asks: by name, or by a part of it.
_PASSING = {
    *("id", "request_id", "response_id", "item_id", "created", "created_at", "completed_at", "metrics"),
    # How many tokens an event of a stream brings, and so how many events there are, is up to the engine's pace.
    *("input_tokens", "system_fingerprint", "sequence_number"),
}
_PASSING_PARTS = ("time", "_ts", "latency", "throughput", "cache")


def body_of(real: EngineUnderTest, api: str, **more: Any) -> dict[str, Any]:
    """A request that the model answers the same way every time."""
    return {"model": real.model, **BODIES[api], **more}


def events(raw: bytes) -> list[bytes]:
    """The events of a stream, whole."""
    return [event for event in raw.split(b"\n\n") if event]


def payload(event: bytes) -> Any:
    """An event's document; `[DONE]` as itself."""
    data = event.rpartition(b"data: ")[2]
    return "[DONE]" if data == b"[DONE]" else json.loads(data)


def is_usage_event(event: bytes) -> bool:
    """Whether it is the event that only stream_options.include_usage brings."""
    document = payload(event)
    return isinstance(document, dict) and document.get("choices") == []


async def ask(url: str, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body of an answer."""
    async with aiohttp.ClientSession() as session, session.post(url + path, json=body) as response:
        return response.status, await response.read()


def shape(value: Any) -> Any:
    """A document without what differs from one answer to the next."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items() if not passes(name)}
    return [shape(one) for one in value] if isinstance(value, list) else value


def passes(name: str) -> bool:
    """Whether a value of that name is an answer's own."""
    return name in _PASSING or any(part in name for part in _PASSING_PARTS)


def stream_shape(documents: list[Any], api: str) -> tuple[list[Any], dict[str, str]]:
    """A stream's events without the text that they bring, those alike in a row as one; and all that text by name.

    SGLang's own route tells the whole answer anew in each event: there the last one counts.
    """
    if api == Api.GENERATE:
        texts = [document["text"] for document in documents[:-1]]
        assert all(texts[-1].startswith(text) for text in texts)
        documents = documents[-2:]
    text: dict[str, str] = {}
    shapes = [without_text(shape(document), text) for document in documents]
    return [one for place, one in enumerate(shapes) if place == 0 or one != shapes[place - 1]], text


def without_text(value: Any, found: dict[str, str], name: str = "") -> Any:
    """A document less the pieces of the answer, which are added to `found`."""
    if isinstance(value, dict):
        return {key: without_text(one, found, key) for key, one in value.items()}
    if isinstance(value, list):
        return [without_text(one, found, name) for one in value]
    if isinstance(value, str) and name in ("content", "text", "delta"):
        found[name] = found.get(name, "") + value
        return ""
    return value


@each_route
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asks_for_usage", [False, True])
async def test_the_client_gets_what_the_engine_sent(
    real: EngineUnderTest, tmp_path: Path, api: str, stream: bool, asks_for_usage: bool
) -> None:
    """Byte for byte, in that very exchange, less only the usage event that we asked for and the client did not."""
    body = body_of(real, api, stream=stream)
    openai = api in (Api.CHAT, Api.COMPLETIONS)
    if asks_for_usage and stream and openai:
        body["stream_options"] = {"include_usage": True}
    async with (
        RecordingRelay("127.0.0.1", real.port) as relay,
        headway_before(real, tmp_path, url=relay.url) as headway,
    ):
        status, received = await ask(headway.url, api, body)
        assert status == 200, received
        await eventually(lambda: headway.status().outcomes == {"completed": 1})
    (exchange,) = [one for one in relay.exchanges if one.request.path == api]
    assert exchange.answer is not None
    sent = exchange.answer.body
    if stream and openai and not asks_for_usage:
        whole = events(sent)
        assert sum(is_usage_event(event) for event in whole) == 1
        sent = b"".join(event + b"\n\n" for event in whole if not is_usage_event(event))
    assert received == sent
    assert exchange.request.body.startswith(json.dumps(body).encode()[:-1])
    (record,) = read_records(tmp_path / "traffic.db")
    assert record.output_tokens and record.prompt_tokens
    # SGLang's messages leave the count out where nothing was cached.
    assert record.cached_tokens is not None or (real.kind, api) == ("sglang", Api.MESSAGES)
    assert record.finish_reason


@each_route
@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_what_the_engine_sends_to_anybody(
    real: EngineUnderTest, tmp_path: Path, api: str, stream: bool
) -> None:
    """Without the proxy the answer says the same; ids, times and what was cached are each answer's own."""
    body = body_of(real, api, stream=stream)
    async with headway_before(real, tmp_path) as headway:
        # Once before: what is cached must not differ.
        await ask(real.base_url, api, body)
        direct, through = await ask(real.base_url, api, body), await ask(headway.url, api, body)
    assert direct[0] == through[0] == 200
    if not stream:
        assert shape(json.loads(direct[1])) == shape(json.loads(through[1]))
        return
    documents = [[payload(event) for event in events(one)] for _, one in (direct, through)]
    # vLLM names its fingerprint in a stream's last event but `[DONE]`: where we ask for usage, in that event.
    names = [{name for event in one if event != "[DONE]" for name in event} for one in documents]
    assert names[0] - {"system_fingerprint"} == names[1] - {"system_fingerprint"}
    assert stream_shape(documents[0], api) == stream_shape(documents[1], api)


LONG = "word " * 9000
BAD: dict[str, dict[str, Any]] = {
    "too long": {Api.CHAT: {"messages": [{"role": "user", "content": LONG}]}},
    "too long, completion": {Api.COMPLETIONS: {"prompt": LONG}},
    "too long, response": {Api.RESPONSES: {"input": LONG}},
    "too long, message": {Api.MESSAGES: {"max_tokens": 8, "messages": [{"role": "user", "content": LONG}]}},
    "too long, generate": {Api.GENERATE: {"text": LONG}},
    "no such option": {Api.CHAT: {"messages": USER, "temperature": -7}},
    "bad constraint": {Api.CHAT: {"messages": USER, "response_format": {"type": "poem"}}},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("real", "what"),
    [
        (kind, what)
        for kind in ("vllm", "sglang")
        for what in BAD
        if (kind, what) != ("vllm", "too long, generate")
    ],
    indirect=["real"],
    scope="session",
)
async def test_errors_pass_as_they_are(
    real: EngineUnderTest, tmp_path: Path, what: str, stream: bool
) -> None:
    """The engine's own status and words; inside a stream that had begun as a 200 they become a real status."""
    ((api, body),) = BAD[what].items()
    body = {"model": real.model, "stream": stream, **body}
    async with (
        RecordingRelay("127.0.0.1", real.port) as relay,
        headway_before(real, tmp_path, url=relay.url) as headway,
    ):
        status, received = await ask(headway.url, api, body)
        await eventually(lambda: headway.status().outcomes == {"engine_error": 1})
        assert headway.status().running == 0
    (exchange,) = [one for one in relay.exchanges if one.request.path == api]
    assert exchange.answer is not None
    if exchange.answer.status != 200:
        assert (status, received) == (exchange.answer.status, exchange.answer.body)
    elif b"response.failed" not in received:
        assert status in (400, 503)
        assert json.loads(received)["error"]["message"] in exchange.answer.body.decode().replace('\\"', '"')


@on("vllm", "sglang")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_prefix_that_a_query_has_computed_is_seen_in_the_cache(
    real: EngineUnderTest, tmp_path: Path, stream: bool
) -> None:
    """What the gate of self-prediction measures: of a prompt whose longer twin came before, 80% of whole blocks."""
    block = 32 if real.kind == "vllm" else 1
    text = f"{real.name} {stream} " + " ".join(f"word{place % 7}" for place in range(150))
    query = [{"role": "user", "content": f"{text}\n\nHow many words will your answer have? 0.1"}]
    request = [{"role": "user", "content": f"{text} 0.5"}]
    async with headway_before(real, tmp_path) as headway:
        await ask(headway.url, Api.CHAT, body_of(real, Api.CHAT, messages=query, max_tokens=1))
        status, answer = await ask(
            headway.url, Api.CHAT, body_of(real, Api.CHAT, messages=request, stream=stream)
        )
        assert status == 200, answer
    first, second = read_records(tmp_path / "traffic.db")
    assert first.cached_tokens is not None and second.cached_tokens is not None and second.prompt_tokens
    # Template and question differ in the last twenty tokens or so.
    common = (second.prompt_tokens - 20) // block * block
    assert first.cached_tokens < 0.5 * common
    assert second.cached_tokens >= 0.8 * common
