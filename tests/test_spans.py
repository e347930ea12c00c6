"""Spans by OTLP: one per request, between the client's trace and the engine's, whatever becomes of the request."""

import hashlib
import re
from pathlib import Path

import msgspec
import pytest
from asking_model import TEXTS, Model, all_answered, arrive, asking, says
from harness import CHAT, ask_raw, chat, eventually, post
from otlp_collector import ERROR, Collector, told, traced
from scripted_engine import JSON, Call, ScriptedEngine, reply

from proxy.identity import KeySettings
from training.emulator import EmulatedEngine

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = (f"traceparent: 00-{TRACE}-{CALLER}-0{flag}" for flag in (1, 0))
SERVER = 2
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
ANSWER = {"choices": [{"finish_reason": "stop", "message": {"content": "my reply"}}], "usage": USAGE}


def received(engine: EmulatedEngine) -> dict[str, str]:
    """What the engine was told of the trace."""
    headers = {name.lower(): value for name, value in engine.received[-1].headers.items()}
    return {name: headers[name] for name in ("traceparent", "tracestate", "baggage") if name in headers}


def parent_of(call: Call) -> str:
    """The traceparent that an engine got."""
    (found,) = re.findall(rb"(?i)\r\ntraceparent: (\S+)", call.head)
    return found.decode()


@pytest.mark.parametrize("streams", [False, True])
async def test_one_trace_runs_from_the_client_to_the_engine(
    engine: EmulatedEngine, collector: Collector, streams: bool
) -> None:
    """Our span is the child of the client's and the parent of the engine's; its times are the request's."""
    async with traced(collector, engine.url) as headway:
        body = chat(model="emulated", max_tokens=64, stream=streams)
        got = await ask_raw(
            headway, post(CHAT, body, SAMPLED, "tracestate: a=1", "tracestate: b=2", "baggage: c=3")
        )
    span, said = collector.span, told(collector.span)
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, CALLER, SERVER)
    assert received(engine) == {
        "traceparent": f"00-{TRACE}-{span.span_id.hex()}-01",
        "tracestate": "a=1,b=2",
        "baggage": "c=3",
    }
    assert span.name == "chat emulated"
    assert span.status.code != ERROR
    assert said["headway.request_id"] == got.header("x-headway-request-id")
    dispatched, first_byte = span.events
    assert (dispatched.name, first_byte.name) == ("dispatched", "first_byte")
    times = [
        span.start_time_unix_nano,
        dispatched.time_unix_nano,
        first_byte.time_unix_nano,
        span.end_time_unix_nano,
    ]
    assert times == sorted(times)
    assert said["headway.queue_ms"] == pytest.approx((times[1] - times[0]) / 1e6, abs=1e-3)


async def test_a_span_tells_what_was_predicted_and_what_came(collector: Collector, tmp_path: Path) -> None:
    """GenAI and HTTP attributes by their conventions, ours beside them, as the traffic log has them."""
    key = KeySettings(sha256=hashlib.sha256(b"mine").hexdigest(), tenant="search", class_name="interactive")
    async with ScriptedEngine(reply(msgspec.json.encode(ANSWER), JSON)) as engine:
        async with traced(collector, engine.url, keys=(key,), policy="quantile") as headway:
            request = post(CHAT, chat(model="m", max_tokens=64), "Authorization: Bearer mine")
            got = await ask_raw(headway, request)
        url = engine.url
    said = told(collector.span)
    assert said.pop("headway.queue_ms") >= 0
    assert said == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.output_tokens": 3,
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "headway.request_id": got.header("x-headway-request-id"),
        "headway.outcome": "completed",
        "headway.class": "interactive",
        "headway.tenant": "search",
        "headway.engine": url,
        "headway.policy": "quantile",
        "headway.artifact": "by-max-tokens",
        "headway.predicted_tokens": 64.0,
        "headway.quantile": 0.064,
    }
    assert collector.resources[0]["service.name"] == "headway"


async def test_neither_prompts_nor_keys_are_told(collector: Collector, tmp_path: Path) -> None:
    """Not of requests that are served, nor of those that are refused."""
    key = tmp_path / "key"
    key.write_text("sk-engine")
    answer = reply(msgspec.json.encode(ANSWER), JSON)
    async with (
        ScriptedEngine(answer) as engine,
        traced(
            collector, engine.url, engine_api_key_file=str(key), state=tmp_path, text_mode="full"
        ) as headway,
    ):
        for body in (
            chat("my secret"),
            b'{"messages": "my secret"}',
            chat("my secret", max_tokens="my secret"),
        ):
            await ask_raw(
                headway, post(CHAT, body, "Authorization: Bearer my-secret", "x-api-key: my secret")
            )
    assert len(collector.spans) == 3
    assert not [word for word in (b"secret", b"sk-engine", b"my reply") if word in collector.raw]


@pytest.mark.parametrize("parent", ["", "traceparent: 00-nonsense-01", f"{SAMPLED}\r\n{SAMPLED}"])
async def test_without_a_parent_that_can_be_read_a_trace_begins_here(
    engine: EmulatedEngine, collector: Collector, parent: str
) -> None:
    """The engine goes on with that one, and the other trace's state is not taken over."""
    async with traced(collector, engine.url) as headway:
        await ask_raw(headway, post(CHAT, chat(), *filter(None, [parent]), "tracestate: a=1"))
    span = collector.span
    assert span.parent_span_id == b""
    assert span.trace_id.hex() != TRACE
    (told_engine,) = received(engine).values()
    version, trace, parent, flags = told_engine.split("-")
    assert (version, trace, parent) == ("00", span.trace_id.hex(), span.span_id.hex())
    assert int(flags, 16) & 1


async def test_what_the_client_does_not_sample_is_not_sampled(
    engine: EmulatedEngine, collector: Collector
) -> None:
    """No span of ours, and the engine hears that it should make none either."""
    async with traced(collector, engine.url) as headway:
        await ask_raw(headway, post(CHAT, chat(), UNSAMPLED))
    assert collector.spans == []
    assert received(engine)["traceparent"].startswith(f"00-{TRACE}-")
    assert received(engine)["traceparent"].endswith("-00")


async def test_the_sdks_own_variables_count(
    engine: EmulatedEngine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampler, headers and resource come from OTEL_*; the sampler decides where the client has not."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=search")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=1")
    async with traced(collector, engine.url) as headway:
        await ask_raw(headway, post(CHAT, chat()))
        await ask_raw(headway, post(CHAT, chat(), SAMPLED))
    assert collector.span.trace_id.hex() == TRACE
    (resource,) = collector.resources
    assert (resource["service.name"], resource["team"]) == ("front", "search")
    assert collector.headers[0]["x-token"] == "1"


async def test_a_model_asked_about_a_request_hears_of_its_span(collector: Collector) -> None:
    """What we ask the engine is ours: it stands under our span, not beside it under the client's."""
    model = Model(says("The"))
    async with ScriptedEngine(model) as engine, traced(collector, engine.url, **asking()) as headway:
        tasks = await arrive(headway, TEXTS, SAMPLED)
        model.let.release()
        await eventually(lambda: len(model.queries) > 0)
        await all_answered(tasks, model)
    ours = {f"00-{TRACE}-{span.span_id.hex()}-01" for span in collector.spans}
    assert len(ours) == 5
    assert {parent_of(call) for call in engine.calls} == ours
    assert {parent_of(call) for call in model.queries} <= ours
