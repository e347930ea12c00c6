"""An engine's own gauges are read where they decide something, and only there: it writes them in its own time."""

import asyncio

import pytest
from aiohttp import web
from harness import CHAT, chat, eventually, proxy_before, serving_app, session


@pytest.mark.parametrize(("mode", "reads"), [("hybrid", 1), ("engine", 0)])
async def test_gauges_are_read_for_a_window_alone(mode: str, reads: int) -> None:
    """While a request is there: once a look where the window is found, never where everything is sent at once."""
    read = 0
    may_answer = asyncio.Event()

    async def gauges(_: web.Request) -> web.Response:
        nonlocal read
        read += 1
        return web.Response(text="vllm:num_requests_running 1.0\nvllm:num_requests_waiting 0.0\n")

    async def answer(_: web.Request) -> web.Response:
        await may_answer.wait()
        return web.json_response({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    async def healthy(_: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    routes = (
        web.get("/metrics", gauges),
        web.post(CHAT, answer),
        web.get("/health", healthy),
        web.get("/version", healthy),
    )
    async with (
        serving_app(*routes) as engine,
        proxy_before(engine, mode=mode) as headway,
        session() as client,
    ):
        headers = {"content-type": "application/json"}
        asked = asyncio.ensure_future(client.post(headway.url + CHAT, data=chat(), headers=headers))
        await eventually(lambda: headway.status().running == 1)
        before = read
        await headway.look()
        assert (read > before) == bool(reads)
        may_answer.set()
        async with await asked as response:
            assert response.status == 200
