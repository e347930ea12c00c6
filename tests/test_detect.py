"""What an engine is, told by its answers to harmless questions; found out in the background, and again."""

import asyncio
import json
import logging

import pytest
from aiohttp import web
from fake_sglang import METRICS as SGLANG_METRICS
from fake_sglang import SETTINGS, FakeSglang
from harness import CHAT, ask_raw, chat, engine_of, eventually, post, proxy_before, serving_app
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine

from proxy.engines.facts import (
    METRICS,
    MODELS,
    QUESTIONS,
    SERVER_INFO,
    VERSION,
    EngineFacts,
    Reply,
    read_facts,
)
from proxy.engines.registry import adapter_for, describe
from training.emulator import EmulatedEngine

VLLM_METRICS = (
    b"# TYPE vllm:num_requests_running gauge\n"
    b'vllm:num_requests_running{engine="0"} 0.0\n'
    b'vllm:cache_config_info{block_size="32",enable_prefix_caching="False",sliding_window="4096",'
    b'prefix_cache_retention_interval="0",kv_cache_max_concurrency="22.75"} 1.0\n'
)


def ok(document: object) -> Reply:
    """A good answer."""
    return Reply(200, document if isinstance(document, bytes) else json.dumps(document).encode())


def models(owner: str) -> Reply:
    """A list of one model."""
    return ok({"data": [{"id": "m", "owned_by": owner, "max_model_len": 4096}]})


NOT_FOUND = Reply(404, b'{"detail":"Not Found"}')
UNAUTHORIZED = Reply(401, b'{"error":"Unauthorized"}')


def test_vllm_tells_itself_by_its_metrics() -> None:
    """Version, model and what the cache is set to."""
    replies = {VERSION: ok({"version": "0.32.0"}), MODELS: models("vllm"), SERVER_INFO: NOT_FOUND}
    facts = read_facts(replies | {METRICS: ok(VLLM_METRICS)})
    assert (facts.kind, facts.version, facts.has_metrics) == ("vllm", "0.32.0", True)
    assert facts.models[0].max_model_len == 4096
    assert facts.cache is not None
    assert (facts.cache.block_size, facts.cache.prefix_caching, facts.cache.retention) == (32, False, "0")
    assert (facts.cache.sliding_window, facts.cache.concurrency) == (4096, 22.75)


def test_sglang_tells_its_settings() -> None:
    """Everything about order comes from /server_info; there is no /version."""
    replies = {VERSION: NOT_FOUND, MODELS: models("sglang"), SERVER_INFO: ok(SETTINGS)}
    facts = read_facts(replies | {METRICS: ok(SGLANG_METRICS.encode())})
    assert (facts.kind, facts.version) == ("sglang", "0.5.23")
    assert facts.sglang is not None
    assert (facts.sglang.enabled, facts.sglang.low_first, facts.sglang.preempts) == (True, True, False)
    assert (facts.sglang.default_value, facts.sglang.cache_report) == (4, True)


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ({MODELS: models("vllm")}, "vllm"),
        ({MODELS: models("sglang")}, "sglang"),
        ({MODELS: models("somebody"), VERSION: ok({"version": "1"})}, "generic"),
        ({MODELS: UNAUTHORIZED, METRICS: ok(VLLM_METRICS)}, "vllm"),
        ({MODELS: UNAUTHORIZED, SERVER_INFO: UNAUTHORIZED, METRICS: ok(SGLANG_METRICS.encode())}, "sglang"),
        (
            {MODELS: ok(b"<html>"), METRICS: ok(b"\xff\xfe"), SERVER_INFO: ok([1]), VERSION: ok(b"[")},
            "generic",
        ),
        ({MODELS: ok({"data": [{"id": 7}]}), SERVER_INFO: ok({"schedule_policy": None})}, "sglang"),
        ({METRICS: ok(b'\nvllm:cache_config_info{block_size="1" 1\nvllm:x 1\n')}, "vllm"),
        (dict.fromkeys(QUESTIONS, NOT_FOUND), "generic"),
    ],
)
def test_whatever_little_is_told_is_enough_for_a_kind(replies: dict[str, Reply], kind: str) -> None:
    """Behind routers and closed doors too; what cannot be read tells nothing, and nothing fails."""
    facts = read_facts(replies)
    assert facts.kind == kind
    assert facts.answered
    assert facts.key_refused is (UNAUTHORIZED in replies.values())
    assert describe(facts, adapter_for(facts.kind, facts, default_tier=0))


def test_silence_is_no_engine() -> None:
    """Nothing answered: nobody is there, and so nothing is known."""
    assert not read_facts({path: Reply() for path in QUESTIONS}).answered


@given(
    st.dictionaries(st.sampled_from(QUESTIONS), st.builds(Reply, st.integers(0, 599), st.binary(max_size=60)))
)
def test_no_answer_breaks_it(replies: dict[str, Reply]) -> None:
    """Any bytes with any status are an answer of some engine."""
    assert isinstance(read_facts(replies), EngineFacts)


def test_a_reply_that_is_not_utf_8_is_no_reply() -> None:
    """msgspec has an error of its own for that, and it is not a DecodeError."""
    replies = {path: ok(b'{"data":[{"id":"\xff\xfe"}],"version":"\xff"}') for path in QUESTIONS}
    assert isinstance(read_facts(replies), EngineFacts)


junk = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=3)


@given(st.dictionaries(st.sampled_from(sorted(SETTINGS)), junk))
def test_no_settings_break_it(settings: dict[str, object]) -> None:
    """Another version may name its settings alike and mean something else."""
    facts = read_facts({SERVER_INFO: ok(settings | {"schedule_policy": "fcfs"})})
    adapter = adapter_for("sglang", facts, default_tier=0)
    assert describe(facts, adapter)


async def test_the_status_names_what_is_there(engine: EmulatedEngine) -> None:
    """Kind, version and models, as the engine tells them."""
    async with proxy_before(engine.url) as headway:
        seen = headway.status().engines[0]
        assert (seen.kind, seen.version, seen.models) == ("vllm", "0.32.0", ["emulated"])


async def test_an_engine_that_tells_nothing_delays_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It hangs on every question but its health: the proxy starts, and asks in its own time."""

    async def hangs(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def healthy(_: web.Request) -> web.Response:
        return web.Response()

    routes = [web.get(path, hangs) for path in QUESTIONS]
    async with serving_app(*routes, web.get("/health", healthy)) as url:
        started = asyncio.ensure_future(_start(url))
        async with asyncio.timeout(20):
            await started
        assert started.result() == "vllm"


async def _start(url: str) -> str:
    async with proxy_before(url, engine_kind="vllm") as headway:
        return headway.status().engines[0].kind


async def test_another_engine_behind_the_same_address_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """vLLM goes, SGLang comes: the next request is spoken to it in its own dialect, and the log says so."""
    caplog.set_level(logging.INFO)
    async with engine_of() as old, FakeSglang() as new:
        forwarded = {"to": old.url}
        async with _switch(forwarded) as url, proxy_before(url) as headway:
            assert headway.status().engines[0].kind == "vllm"
            forwarded["to"] = "http://127.0.0.1:9"
            await eventually(lambda: not headway.status().engines[0].available)
            forwarded["to"] = new.url
            await eventually(lambda: headway.status().engines[0].available)
            assert headway.status().engines[0].kind == "sglang"
            assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
            assert new.received[0][1]["priority"] == 4
    assert any("sglang 0.5.23" in record.getMessage() for record in caplog.records)


def _switch(forwarded: dict[str, str]):  # type: ignore[no-untyped-def]
    """A server that passes everything to whatever `forwarded["to"]` names; 503 where nobody is there."""
    import aiohttp

    async def relay(request: web.Request) -> web.Response:
        try:
            async with (
                aiohttp.ClientSession() as client,
                client.request(
                    request.method,
                    forwarded["to"] + request.path_qs,
                    data=await request.read(),
                    headers={"Content-Type": request.content_type},
                ) as answer,
            ):
                body = await answer.read()
                return web.Response(status=answer.status, body=body, content_type=answer.content_type)
        except aiohttp.ClientError:
            return web.Response(status=503)

    return serving_app(web.route("*", "/{path:.*}", relay))


async def test_only_harmless_questions_are_asked() -> None:
    """GETs of four pages and of health: never SGLang's /health, which makes it compute."""
    async with FakeSglang() as engine, proxy_before(engine.url):
        assert set(engine.asked) <= {"/ready", *QUESTIONS}


async def test_what_is_decided_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """One line at the start: what the engine is, and what is made of it."""
    caplog.set_level(logging.INFO)
    async with FakeSglang(enable_priority_scheduling=False) as engine, proxy_before(engine.url):
        said = [record.getMessage() for record in caplog.records if record.name == "headway.engines"]
    assert len(said) == 1
    assert "--enable-priority-scheduling" in said[0]
    assert "the proxy holds and orders" in said[0]


async def test_cached_tokens_that_are_never_told_are_missed_once(caplog: pytest.LogCaptureFixture) -> None:
    """After five answers without them the log names the flag, and the status says so."""
    async with engine_of(enable_prompt_tokens_details=False) as engine, proxy_before(engine.url) as headway:
        for _ in range(7):
            assert headway.status().engines[0].reports_cached in (None, False)
            await ask_raw(headway, post(CHAT, chat()))
        assert headway.status().engines[0].reports_cached is False
    flags = [r.getMessage() for r in caplog.records if "--enable-prompt-tokens-details" in r.getMessage()]
    assert len(flags) == 1


async def test_a_dead_engine_is_not_asked_for_ever() -> None:
    """One that answers health alone is asked what it is once, not every second."""
    async with ScriptedEngine(b"") as engine, proxy_before(engine.url) as headway:
        assert headway.status().engines[0].kind == "vllm"
        assert headway.status().engines[0].models == []
