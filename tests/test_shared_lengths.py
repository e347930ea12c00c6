"""History shared by proxies: what one has seen, all predict from; and none waits for it."""

import asyncio
from pathlib import Path

import pytest
from harness import CHAT, ask_raw, chat, engine_of, eventually, post, proxy_before
from redis_server import redis_server

from predictor.history import LEVELS, HistoryKey
from proxy.ranking import Ranking


def ranking() -> Ranking:
    """The wheel's ranker, with a history of its own."""
    made = Ranking()
    assert made.load()
    return made


BODY = chat("Tell me of the sea.", model="emulated")


async def test_an_answer_is_in_every_proxys_history(tmp_path: Path) -> None:
    """Whatever proxy served it, an answer counts everywhere, once; the proxy that served it counts it once too."""
    one, two = ranking(), ranking()
    async with (
        redis_server(tmp_path) as server,
        engine_of([40]) as engine,
        proxy_before(engine.url, redis=server.url, estimator=one) as first,
        proxy_before(engine.url, redis=server.url, estimator=two) as second,
    ):
        for headway in (first, second, first):
            assert (await ask_raw(headway, post(CHAT, BODY))).status == 200
        await eventually(lambda: _counts(one) == _counts(two) == [3] * len(LEVELS))
        for name, stats in one.history.drain_updates():
            known = dict(two.history.drain_updates())
            assert known[name].mean == pytest.approx(stats.mean)
            break


def _counts(made: Ranking) -> list[float]:
    return [stats.count for stats in made.history._stats.values()]


async def test_a_new_proxy_knows_what_came_before(tmp_path: Path) -> None:
    """A proxy that starts learns from the answers of the past, its own former life's included."""
    async with redis_server(tmp_path) as server, engine_of([40]) as engine:
        async with proxy_before(engine.url, redis=server.url, estimator=ranking()) as headway:
            for _ in range(3):
                await ask_raw(headway, post(CHAT, BODY))
        fresh = ranking()
        async with proxy_before(engine.url, redis=server.url, estimator=fresh):
            await eventually(lambda: _counts(fresh) == [3] * len(LEVELS))


async def test_a_redis_that_goes_and_comes(tmp_path: Path) -> None:
    """What was learned while Redis was away is told when it is back."""
    one, two = ranking(), ranking()
    async with (
        redis_server(tmp_path) as server,
        engine_of([40]) as engine,
        proxy_before(engine.url, redis=server.url, estimator=one) as first,
        proxy_before(engine.url, redis=server.url, estimator=two),
    ):
        await ask_raw(first, post(CHAT, BODY))
        await eventually(lambda: len(two.history) > 0)
        await server.kill()
        await ask_raw(first, post(CHAT, BODY))
        assert _counts(one) == [2] * len(LEVELS)
        assert _counts(two) == [1] * len(LEVELS)
        await server.start()
        await eventually(lambda: _counts(two) == [2] * len(LEVELS))


async def test_foreign_entries_are_left_out(tmp_path: Path) -> None:
    """Bytes of another version, or of nobody, stop neither the proxy nor what comes after them."""
    made = ranking()
    async with (
        redis_server(tmp_path) as server,
        engine_of([40]) as engine,
        proxy_before(engine.url, redis=server.url, estimator=made),
        proxy_before(engine.url, redis=server.url, estimator=ranking()) as other,
    ):
        for junk in (
            b"",
            b"\xff",
            b"\x94\xa1p\x90\x00\xca\x00\x00\x00\x00",
            b"\x94\xa1p\x91\xa1\xff\x05\x00",
        ):
            await server.client.xadd("headway:lengths", {"r": junk})
        await server.client.xadd("headway:lengths", {"x": b"y"})
        await asyncio.sleep(0)
        await ask_raw(other, post(CHAT, BODY))
        await eventually(lambda: _counts(made) == [1] * len(LEVELS))
        assert made.history.features(HistoryKey(("p",) * len(LEVELS))) is not None


async def test_a_history_that_was_kept_is_not_counted_twice(tmp_path: Path) -> None:
    """A proxy that brings its history back from before learns only what ended since."""
    made = ranking()
    async with redis_server(tmp_path) as server, engine_of([40]) as engine:
        async with proxy_before(engine.url, redis=server.url, estimator=made) as headway:
            await ask_raw(headway, post(CHAT, BODY))
        async with proxy_before(engine.url, redis=server.url, estimator=ranking()) as headway:
            await ask_raw(headway, post(CHAT, BODY))
        async with proxy_before(engine.url, redis=server.url, estimator=made):
            await eventually(lambda: _counts(made) == [2] * len(LEVELS))
