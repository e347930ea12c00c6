"""Any OpenAI-compatible server: nothing is asked of it beyond the API, and the proxy holds and orders."""

from aiohttp import web
from harness import ask_raw, chat, post, proxy_before, serving_app

from predictor.request import Api, decode_body
from proxy.engines.adapter import Turn
from proxy.engines.generic import GenericAdapter

CHAT = b'{"messages":[],"stream":true}'


def test_it_is_told_nothing_but_the_request() -> None:
    """No priority, in no way; usage is asked for as OpenAI's API has it."""
    made = GenericAdapter().outgoing(Api.CHAT, CHAT, decode_body(CHAT), Turn(5, 0), "0" * 32)
    assert b"priority" not in made.body
    assert set(made.headers) == {"X-Request-Id"}
    assert made.rank is None
    assert made.added_usage is True


def test_it_is_there_when_it_answers_at_all() -> None:
    """401 and 404 come from a server that is there; 5xx from one that is not ready."""
    adapter = GenericAdapter()
    assert [adapter.is_healthy(status) for status in (200, 401, 404, 500, 503)] == [True] * 3 + [False] * 2


async def test_engine_mode_holds_where_the_engine_cannot_order() -> None:
    """A server that takes no priorities gets a window even where the operator wants the engine to order."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice]})

    async with serving_app(web.post("/v1/chat/completions", answer)) as url:
        async with proxy_before(url, mode="engine") as headway:
            engine = headway.status().engines[0]
            assert engine.kind == "generic"
            assert engine.window is not None
            assert (await ask_raw(headway, post(Api.CHAT, chat()))).status == 200
        async with proxy_before(url, mode="engine", engine_kind="vllm") as headway:
            assert headway.status().engines[0].kind == "vllm"
