"""An engine whose own queue is full: it gets fewer requests, and those that it refused wait on."""

import asyncio

import aiohttp
import pytest
from fake_sglang import FakeSglang
from harness import CHAT, ask_raw, chat, engine_of, error_of, eventually, idle, outcomes, post, proxy_before
from scripted_engine import JSON, Call, ScriptedEngine, reply

from predictor.request import Api
from proxy.engines.generic import GenericAdapter
from proxy.engines.sglang import SglangAdapter
from proxy.engines.vllm import VllmAdapter

BUSY = b'{"error":{"message":"The engine is currently busy.","type":"x","param":null,"code":503}}'
ANSWER = b'{"choices":[{"finish_reason":"stop"}],"usage":{"completion_tokens":1}}'
VLLM = {"engine_kind": "vllm"}
BODIES = {
    Api.CHAT: chat(),
    Api.RESPONSES: b'{"input":"hi"}',
    Api.MESSAGES: b'{"max_tokens":8,"messages":[{"role":"user","content":"hi"}]}',
    Api.GENERATE: b'{"text":"hi"}',
}


@pytest.mark.parametrize("mode", ["hold", "hybrid", "engine"])
@pytest.mark.parametrize("window", [None, 64])
async def test_a_burst_beyond_the_engines_queue_is_served_whole(mode: str, window: int | None) -> None:
    """Forty at once before an engine that takes four: nobody sees its refusals, the window says why it is small."""
    async with (
        engine_of([3], slots=2, max_num_queued_reqs=4) as engine,
        proxy_before(engine.url, mode=mode, window=window) as headway,
    ):
        # It has answered nobody before more have come than it takes.
        engine.inference.loop.set_slowness(100)
        bodies = [chat(stream=place % 2 == 0) for place in range(40)]
        asked = [asyncio.create_task(ask_raw(headway, post(CHAT, body))) for body in bodies]
        await eventually(lambda: len(engine.received) > 4)
        engine.inference.loop.set_slowness(1)
        answers = await asyncio.gather(*asked)
        assert [answer.status for answer in answers] == [200] * 40
        assert all(answer.complete for answer in answers)
        assert len(engine.received) > 40
        await idle(headway)
        assert await outcomes(headway) == {"completed": 40}
        (status,) = headway.status().engines
        assert "limit" in status.window_reason
        assert status.window is not None and status.window < (window or 8)


@pytest.mark.parametrize("api", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_sglangs_refusals_are_waited_out(api: Api, stream: bool) -> None:
    """A status, or an event inside a 200: either way the client gets its answer, and nothing is aborted.

    Each attempt has an id of its own: the engine's late abort of a refused one must not meet the next.
    """
    async with FakeSglang() as engine, proxy_before(engine.url) as headway:
        engine.full = 2
        body = BODIES[api][:-1] + b',"stream":true}' if stream else BODIES[api]
        got = await ask_raw(headway, post(api, body))
        assert got.status == 200
        assert b"queue is full" not in got.body
        await idle(headway)
        assert len(engine.received) == 3
        assert engine.aborted == []
        rids = [body.get("rid") or body.get("request_id") for _, body, _ in engine.received]
        assert api is Api.MESSAGES or len(set(rids)) == 3
        assert await outcomes(headway) == {"completed": 1}


async def test_refused_though_alone_it_is_tried_again_in_a_while() -> None:
    """Others keep the engine full: no more than one try at a time, and the place in the queue stays."""
    async with (
        ScriptedEngine(reply(BUSY, JSON, status="503 x")) as engine,
        proxy_before(engine.url, **VLLM) as headway,
    ):
        waiting = [asyncio.create_task(ask_raw(headway, post(CHAT, chat()))) for _ in range(5)]
        await eventually(lambda: len(engine.calls) >= 3)
        assert len(engine.calls) < 5
        # While a try is under way the window is 1.
        await eventually(lambda: headway.status().engines[0].window == 0)
        (status,) = headway.status().engines
        assert "refused" in status.window_reason
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await idle(headway)
        assert await outcomes(headway) == {"client_gone": 5}


async def test_an_engine_that_never_has_room_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """After many tries the client learns that it is the engine's queue, and that trying again does not help."""
    monkeypatch.setattr("proxy.serving._MOST_REFUSALS", 2)
    async with (
        ScriptedEngine(reply(BUSY, JSON, status="503 x")) as engine,
        proxy_before(engine.url, **VLLM) as headway,
    ):
        got = await ask_raw(headway, post(CHAT, chat()))
        assert got.status == 503
        error_of(got.body, "engine_full")
        assert got.header("x-should-retry") == "false"
        assert len(engine.calls) == 2
        assert await outcomes(headway) == {"refused_full": 1}


async def test_more_answers_than_the_queue_takes_harm_nobody_else() -> None:
    """A request for twenty answers before a queue of four can never be served: it alone is told."""
    async with engine_of([3], max_num_queued_reqs=4) as engine, proxy_before(engine.url, window=4) as headway:
        got = await ask_raw(headway, post(CHAT, chat(n=20)))
        assert got.status == 503
        error_of(got.body, "engine_full")
        assert headway.status().engines[0].window == 4
        assert (await ask_raw(headway, post(CHAT, chat()))).status == 200


async def test_a_client_that_leaves_between_two_tries_is_gone() -> None:
    """It waits like anybody else, and leaves like anybody else."""
    async with FakeSglang() as engine, proxy_before(engine.url) as headway, aiohttp.ClientSession() as client:
        engine.full = 1000
        asked = asyncio.ensure_future(client.post(f"{headway.url}{CHAT}", data=chat()))
        await eventually(lambda: bool(engine.received))
        asked.cancel()
        await idle(headway)
        engine.full = 0
        assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
        assert await outcomes(headway) == {"client_gone": 1, "completed": 1}


@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b'{"error":{"message":"The model is loading."}}'), (429, BUSY), (400, BUSY)],
)
async def test_other_refusals_pass_as_they_are(status: int, body: bytes) -> None:
    """Only a full queue is worth waiting for; everything else is the engine's word to the client."""
    engine_says = reply(body, JSON, status=f"{status} x")
    async with ScriptedEngine(engine_says) as engine, proxy_before(engine.url, **VLLM) as headway:
        got = await ask_raw(headway, post(CHAT, chat()))
        assert (got.status, got.body) == (status, body)
        assert await outcomes(headway) == {"engine_error": 1}


async def test_the_answer_after_a_refusal_is_the_only_one_that_counts() -> None:
    """Times and tokens are those of the answer; the client sees nothing of the first try."""
    tries: list[Call] = []

    async def script(call: Call) -> None:
        tries.append(call)
        await call.send(reply(BUSY, JSON, status="503 x") if len(tries) == 1 else reply(ANSWER, JSON))

    async with ScriptedEngine(script) as engine, proxy_before(engine.url, **VLLM) as headway:
        got = await ask_raw(headway, post(CHAT, chat()))
        assert (got.status, got.body) == (200, ANSWER)
        assert len(tries) == 2
        assert tries[0].body == tries[1].body
        assert await outcomes(headway) == {"completed": 1}


def test_each_engine_says_it_in_its_own_words() -> None:
    """The texts of vLLM 0.32 and SGLang 0.5.23; a server of unknown kind is not guessed at."""
    busy = b"The engine is currently busy and cannot accept new requests."
    backlog = b"The engine has reached its prefill token backlog limit."
    for said in (busy, backlog):
        assert VllmAdapter().is_full(503, said)
        assert not GenericAdapter().is_full(503, said)
    for said in (b"The request queue is full.", b"The request is aborted by a higher priority request."):
        assert SglangAdapter().is_full(503, said)
        assert not SglangAdapter().is_full(400, said)
