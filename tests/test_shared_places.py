"""Several proxies before one engine: never more of them together at it than it takes, and about one order."""

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
import pytest
from harness import CHAT, engine_of, eventually, proxy_before, session
from redis_server import RedisServer, redis_server
from scipy.stats import kendalltau
from scripted_engine import Call, ScriptedEngine, stream

from proxy.app import Headway
from proxy.shared.places import _key
from training.emulator import EmulatedEngine


@pytest.fixture
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for seconds makes nobody a proxy that is gone."""
    monkeypatch.setattr("proxy.shared.places._LEASE_MS", 60_000)


class Crowd:
    """The most of all proxies that were at the engine at once, and the order in which they got there."""

    def __init__(self, engine: EmulatedEngine) -> None:
        model = engine.inference.model
        submit = engine.inference.loop.submit
        self.most = 0

        def counted(seq, listener):  # type: ignore[no-untyped-def]
            at_s = submit(seq, listener)
            self.most = max(self.most, model.num_running + model.num_waiting)
            return at_s

        engine.inference.loop.submit = counted  # type: ignore[method-assign]


async def ask(client: aiohttp.ClientSession, headway: Headway, number: int = 0) -> None:
    """One streamed request, answered in full."""
    body = {
        "model": "emulated",
        "stream": True,
        "seed": number,
        "messages": [{"role": "user", "content": "hello"}],
    }
    async with client.post(headway.url + CHAT, json=body) as response:
        assert response.status == 200
        await response.read()


async def two(stack: AsyncExitStack, engine: str, server: RedisServer | None, **settings) -> list[Headway]:
    """Two proxies before the engine, that know of each other where there is a Redis."""
    url = server.url if server else None
    made = [await stack.enter_async_context(proxy_before(engine, redis=url, **settings)) for _ in range(2)]
    if server is not None:
        await eventually(lambda: all(one._together.places.proxies == 2 for one in made))
    return made


@pytest.mark.usefixtures("long_leases")
async def test_never_more_than_the_window_together(tmp_path: Path) -> None:
    """Two proxies under load share a window of 8 for one engine; each alone would take 8 of its own."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(redis_server(tmp_path))
        engine = await stack.enter_async_context(engine_of([60], slots=64, base_s=4e-3))
        client = await stack.enter_async_context(session())
        proxies = await two(stack, engine.url, server, window=8)
        crowd = Crowd(engine)
        await asyncio.gather(*(ask(client, proxies[number % 2]) for number in range(120)))
        assert crowd.most == 8
        assert {one.status().running for one in proxies} == {0}


@pytest.mark.usefixtures("long_leases")
async def test_the_window_is_found_together(tmp_path: Path) -> None:
    """Without a given window two proxies find what the engine runs, and its own queue stays as short as with one."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(redis_server(tmp_path))
        # Equally long answers would end together, and a proxy on its own would let as many wait there.
        engine = await stack.enter_async_context(engine_of(range(10, 71, 3), slots=24, base_s=15e-3))
        client = await stack.enter_async_context(session())
        proxies = await two(stack, engine.url, server)
        loading = [
            asyncio.create_task(keep_asking(client, proxies[0 if number % 4 else 1])) for number in range(96)
        ]
        crowd = Crowd(engine)

        async def as_one_proxy() -> bool:
            crowd.most = 0
            await asyncio.sleep(1)
            parts = [one.status().engines[0].window for one in proxies]
            # Two that knew nothing of each other would have twice as many there; three quarters wait at the first.
            return 24 <= crowd.most <= 36 and parts[0] > 2 * parts[1]

        await eventually(lambda: all(24 < agreed(one) < 32 for one in proxies))
        await eventually(as_one_proxy)
        reasons = [one.status().engines[0].window_reason for one in proxies]
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
    assert all("2 proxies share" in reason for reason in reasons)


def agreed(headway: Headway) -> int:
    """The places of all proxies together, as the status page tells."""
    found = re.search(r"part of (\d+)", headway.status().engines[0].window_reason)
    return int(found[1]) if found else 0


async def keep_asking(client: aiohttp.ClientSession, headway: Headway) -> None:
    while True:
        await ask(client, headway)


class Answers:
    """An engine that answers as many requests as it is let, in the order in which they got there."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine(self._answer)
        self.received: list[int] = []
        self._let = asyncio.Semaphore(0)

    async def _answer(self, call: Call) -> None:
        self.received.append(msgspec.json.decode(call.body)["seed"])
        await self._let.acquire()
        await call.send(stream(b'data: {"choices":[{"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n"))

    def let(self, count: int) -> None:
        """So many more are answered."""
        for _ in range(count):
            self._let.release()


async def dispatched(stack: AsyncExitStack, server: RedisServer | None, window: int) -> list[int]:
    """The order in which 240 requests, three of four through one proxy, reached the engine.

    Between two answers all proxies hear of each other, however slow the machine is.
    """
    answers = Answers()
    engine = await stack.enter_async_context(answers.engine)
    client = await stack.enter_async_context(session())
    proxies = await two(stack, engine.url, server, window=window, policy="fcfs")
    asking = []
    for number in range(240):
        asking.append(asyncio.create_task(ask(client, proxies[0 if number % 4 else 1], number=number)))
        await eventually(lambda held=number + 1: held_by(proxies) == held, pause_s=1e-3)  # type: ignore[misc]
    for held in range(238, -1, -2):
        for _ in range(2 if server else 0):
            await heard(proxies)
        answers.let(2)
        await eventually(lambda held=held: held_by(proxies) == held, pause_s=1e-3)  # type: ignore[misc]
    await asyncio.gather(*asking)
    return answers.received


def held_by(proxies: list[Headway]) -> int:
    """How many requests wait or run at these proxies."""
    return sum(status.waiting + status.running for status in (one.status() for one in proxies))


async def heard(proxies: list[Headway]) -> None:
    """Each proxy's next heartbeat."""
    before = [one._together.places._beaten_us for one in proxies]
    await eventually(
        lambda: all(one._together.places._beaten_us > then for one, then in zip(proxies, before, strict=True))
    )


@pytest.mark.usefixtures("long_leases")
async def test_the_order_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy with a short queue does not run ahead of one with a long queue: all are served in about one order."""
    monkeypatch.setattr("proxy.shared.places._QUICK_BEAT_S", 2e-3)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(redis_server(tmp_path))
        shared = await dispatched(stack, server, 8)
        apart = await dispatched(stack, None, 4)
    assert sorted(shared) == sorted(apart) == list(range(240))
    assert tau_b(shared) > 0.9 > tau_b(apart)


def tau_b(order: list[int]) -> float:
    return float(kendalltau(order, range(len(order))).statistic)


@pytest.mark.usefixtures("long_leases")
async def test_redis_goes_and_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Redis the last division holds, then each goes alone, then they share again; no answer is lost."""
    monkeypatch.setattr("proxy.shared.places._KEEP_US", 5_000_000)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(redis_server(tmp_path))
        engine = await stack.enter_async_context(engine_of([20], slots=64, base_s=5e-3))
        client = await stack.enter_async_context(session())
        proxies = await two(stack, engine.url, server, window=8)
        stop = asyncio.Event()
        loading = [asyncio.create_task(ask_until(stop, client, proxies[n % 2])) for n in range(24)]
        await eventually(lambda: {one.status().running for one in proxies} == {4})
        await server.kill()
        crowd = Crowd(engine)
        await asyncio.sleep(0.7)
        assert 0 < crowd.most <= 8
        await eventually(lambda: all(one.status().running == 8 for one in proxies))
        await server.start()
        await eventually(
            lambda: all("2 proxies share" in one.status().engines[0].window_reason for one in proxies)
        )
        await eventually(lambda: sum(one.status().running for one in proxies) == 8)
        crowd.most = 0
        await asyncio.sleep(0.5)
        assert 0 < crowd.most <= 8
        stop.set()
        answered = sum(await asyncio.gather(*loading))
        assert sum(one.status().outcomes["completed"] for one in proxies) == answered


async def test_an_engine_that_left_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine leaves, then Redis goes: the others' windows are found alone, and a new engine is sent to."""
    monkeypatch.setattr("proxy.shared.places._KEEP_US", 1_000_000)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(redis_server(tmp_path))
        leaving, staying, new = [await stack.enter_async_context(engine_of()) for _ in range(3)]
        headway, other = [
            await stack.enter_async_context(proxy_before(leaving.url, staying.url, redis=server.url))
            for _ in range(2)
        ]
        await eventually(lambda: all("share" in one.window_reason for one in headway.status().engines))
        for one in (headway, other):
            one._pool.leave(leaving.url)
            one._pool.sweep()
        await server.kill()
        await eventually(lambda: "share" not in headway.status().engines[0].window_reason)
        headway._pool.add(new.url)
        await eventually(lambda: all(one.window for one in headway.status().engines))
        assert [one.url for one in headway.status().engines] == [staying.url, new.url]


async def ask_until(stop: asyncio.Event, client: aiohttp.ClientSession, headway: Headway) -> int:
    answered = 0
    while not stop.is_set():
        await ask(client, headway)
        answered += 1
    return answered


async def test_a_proxy_that_is_gone_leaves_its_places(tmp_path: Path) -> None:
    """Stopped in good order or killed, a proxy's part is soon the other's."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(redis_server(tmp_path))
        engine = await stack.enter_async_context(engine_of([20], slots=64, base_s=5e-3))
        staying, going = await two(stack, engine.url, server, window=8)
        await eventually(lambda: [one.status().engines[0].window for one in (staying, going)] == [4, 4])
        for task in going._tasks:
            task.cancel()
        await eventually(lambda: staying.status().engines[0].window == 8)


async def test_engines_on_loopback_are_of_their_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sidecars all call their own engine 127.0.0.1: those are different engines."""
    monkeypatch.setattr("proxy.shared.places.gethostname", lambda: "pod-a")
    assert _key("http://127.0.0.1:8200") == "headway:places:pod-a:http://127.0.0.1:8200"
    assert "pod-a" in _key("http://localhost:1")
    assert "pod-a" in _key("http://[::1]:1")
    assert _key("http://10.0.0.7:8000") == "headway:places:http://10.0.0.7:8000"


async def test_foreign_fields_are_no_proxies(tmp_path: Path) -> None:
    """What is not a heartbeat in the hash does not count as one; another version's does, and stops nobody."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(redis_server(tmp_path))
        engine = await stack.enter_async_context(engine_of([20]))
        await server.client.hset(_key(engine.url), mapping={"x": b"\xff", ":window": "many", "": "1 2"})
        await server.client.hset(_key(engine.url), "later", b"99999999999999 1 1 \xc1")
        headway = await stack.enter_async_context(proxy_before(engine.url, redis=server.url))
        client = await stack.enter_async_context(session())
        await ask(client, headway)
        await eventually(lambda: headway._together.places.proxies == 2)
        assert headway.status().engines[0].window
