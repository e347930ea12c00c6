"""The ids of the openings: learned whole or not at all, asked for ever more rarely, forgotten with their engine."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web
from fake_sglang import FakeSglang
from harness import eventually
from multidict import CIMultiDict

from predictor.self_query import ENDS, OPENINGS
from proxy.asking.vocabulary import Vocabulary
from proxy.engine_answer import EngineAnswer
from proxy.engines.registry import Engines
from proxy.errors import EngineLost
from proxy.settings import Settings
from proxy.upstream import Upstream

SECOND_US = 1_000_000
TEXTS = (*OPENINGS, *ENDS)


class Tokenizer(FakeSglang):
    """Tells tokens while it is let: `tells` of them, then 503; `first` is added to each id."""

    def __init__(self) -> None:
        super().__init__()
        self.tells = 1_000
        self.first = 0
        self.let = asyncio.Event()
        self.let.set()
        self.texts: list[str] = []

    async def _tokenize(self, request: web.Request) -> web.Response:
        text = (await request.json())["prompt"]
        self.texts.append(text)
        first = self.first
        await self.let.wait()
        if not self.tells:
            return web.Response(status=503)
        self.tells -= 1
        return web.json_response({"tokens": [first + TEXTS.index(text)]})


class Deaf(Upstream):
    """Loses every connection over which tokens are asked for."""

    asked = 0

    async def open(
        self, base: str, method: str, path: str, headers: CIMultiDict[str], body: bytes | None
    ) -> EngineAnswer:
        if path != "/tokenize":
            return await super().open(base, method, path, headers, body)
        self.asked += 1
        raise EngineLost("It is gone.")


@asynccontextmanager
async def learner(
    *servers: Tokenizer, upstream: type[Upstream] = Upstream
) -> AsyncIterator[tuple[Vocabulary, Engines, Upstream]]:
    """A vocabulary of these engines, which are started and known."""
    async with AsyncExitStack() as stack:
        urls = [(await stack.enter_async_context(server)).url for server in servers]
        connections = upstream(Settings(engine=tuple(urls)))
        stack.push_async_callback(connections.close)
        engines = Engines(connections, None)
        vocabulary = Vocabulary(engines, connections, None)
        stack.callback(vocabulary.close)
        engines.renewed = vocabulary.forget
        for url in urls:
            engines.add(url)
            await engines.examine(url)
        yield vocabulary, engines, connections


def ids(first: int = 0) -> tuple[int, ...]:
    """All that a Tokenizer tells."""
    return tuple(range(first, first + len(TEXTS)))


async def test_a_whole_pass_is_kept() -> None:
    """Every text is asked about once, and never again."""
    server = Tokenizer()
    async with learner(server) as (vocabulary, _, _):
        await eventually(lambda: vocabulary.of(server.url, 0) == ids())
        assert vocabulary.of(server.url, 10**6 * SECOND_US) == ids()
        await asyncio.sleep(0.02)
    assert server.texts == list(TEXTS)


@pytest.mark.parametrize("told", [0, 10])
async def test_what_is_told_in_part_is_asked_for_again(told: int, caplog: pytest.LogCaptureFixture) -> None:
    """An engine that refuses, at once or in mid-way, is asked again after ten seconds; no part of a pass is used."""
    caplog.set_level(logging.INFO)
    server = Tokenizer()
    server.tells = told
    async with learner(server) as (vocabulary, _, _):
        assert vocabulary.of(server.url, 0) == ()
        await eventually(lambda: "/tokenize is answered with status 503" in caplog.text)
        server.tells = 1_000
        assert vocabulary.of(server.url, 10 * SECOND_US - 1) == ()
        await asyncio.sleep(0.02)
        assert len(server.texts) == told + 1
        await eventually(lambda: vocabulary.of(server.url, 10 * SECOND_US) == ids())


async def test_who_always_fails_is_asked_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    """Within an hour an engine that tells nothing is asked eleven times, at most ten minutes apart; said once."""
    caplog.set_level(logging.INFO)
    server = Tokenizer()
    async with learner(server, upstream=Deaf) as (vocabulary, _, connections):
        assert isinstance(connections, Deaf)
        asked_s = []
        for now_s in range(0, 3600, 10):
            before = connections.asked
            assert vocabulary.of(server.url, now_s * SECOND_US) == ()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            asked_s += [now_s] * (connections.asked - before)
    assert asked_s == [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030]
    assert caplog.text.count("does not tell its tokens") == 1


async def test_an_engine_that_comes_back_is_asked_anew() -> None:
    """Behind the same address and name there may be another model: what was known, and what is on its way, go."""
    server = Tokenizer()
    async with learner(server) as (vocabulary, engines, _):
        await eventually(lambda: vocabulary.of(server.url, 0) == ids())
        engines.renew(server.url)
        server.let.clear()
        assert vocabulary.of(server.url, 0) == ()
        await eventually(lambda: len(server.texts) == len(TEXTS) + 1)
        engines.renew(server.url)
        server.first = 1_000
        server.let.set()
        await eventually(lambda: vocabulary.of(server.url, 0) == ids(1_000))


async def test_an_engine_that_left_is_asked_no_more() -> None:
    """Its tokens go with it, and if it is added again they are asked for again."""
    server = Tokenizer()
    async with learner(server) as (vocabulary, engines, _):
        await eventually(lambda: vocabulary.of(server.url, 0) == ids())
        engines.remove(server.url)
        assert vocabulary.of(server.url, 0) == ()
        server.first = 1_000
        engines.add(server.url)
        await engines.examine(server.url)
        await eventually(lambda: vocabulary.of(server.url, 0) == ids(1_000))


async def test_an_engine_that_hangs_hinders_no_other() -> None:
    """While one gives no answer another tells its tokens."""
    hangs, tells = Tokenizer(), Tokenizer()
    hangs.let.clear()
    async with learner(hangs, tells) as (vocabulary, _, _):
        assert vocabulary.of(hangs.url, 0) == ()
        await eventually(lambda: bool(hangs.texts))
        await eventually(lambda: vocabulary.of(tells.url, 0) == ids())
        assert vocabulary.of(hangs.url, 0) == ()
        hangs.let.set()
