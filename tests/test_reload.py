"""Policies switched at run time, by SIGHUP's path."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest
from harness import CHAT, engine_of, eventually, proxy_before

from bench.pressure.served import served
from proxy.app import Headway
from proxy.class_settings import ClassSettings
from proxy.identity import KeySettings
from proxy.learning import make_ranking
from proxy.serve import Hangup
from proxy.settings import Settings, SettingsError


async def test_a_switch_of_policy_loses_nobody_and_rekeys_who_waits(tmp_path: Path) -> None:
    """Requests that wait when the policy changes are all answered, in the new policy's order from then on."""
    async with (
        engine_of([60], slots=1) as engine,
        proxy_before(engine.url, state=tmp_path, window=1) as headway,
    ):
        body = {"model": "emulated", "messages": [{"role": "user", "content": "hello"}]}
        async with aiohttp.ClientSession() as session:

            async def ask() -> str | None:
                async with session.post(headway.url + CHAT, json=body) as response:
                    assert response.status == 200
                    await response.read()
                    return response.headers["x-headway-policy"]

            engine.inference.loop.set_slowness(100)
            asked = [asyncio.ensure_future(ask()) for _ in range(12)]
            await eventually(lambda: headway.status().waiting >= 8)
            headway.reload(msgspec.structs.replace(headway.settings, policy="fcfs"))
            engine.inference.loop.set_slowness(1)
            policies = await asyncio.gather(*asked)
        assert headway.status().policy == "fcfs"
        assert set(policies) <= {"fcfs", "quantile"}
        assert headway.status().outcomes == {"completed": 12}


async def test_a_proxy_that_began_with_fcfs_predicts_once_it_is_told_to(tmp_path: Path) -> None:
    """First come, first served predicts nothing; a policy that does gets the wheel's ranker at the reload, and loses it
    again."""
    resting = make_ranking(Settings(engine=("http://127.0.0.1:1",), policy="fcfs"))
    body = {"model": "emulated", "messages": [{"role": "user", "content": "hello"}]}
    async with (
        engine_of([5]) as engine,
        proxy_before(engine.url, state=tmp_path, policy="fcfs", estimator=resting) as headway,
        aiohttp.ClientSession() as session,
    ):

        async def ask() -> tuple[str, str]:
            async with session.post(headway.url + CHAT, json=body) as response:
                assert response.status == 200
                return response.headers["x-headway-policy"], response.headers["x-headway-artifact"]

        assert await ask() == ("fcfs", "none")
        headway.reload(msgspec.structs.replace(headway.settings, policy="quantile"))
        policy, artifact = await ask()
        assert (policy, len(artifact)) == ("quantile", 16)
        headway.reload(msgspec.structs.replace(headway.settings, policy="fcfs"))
        assert await ask() == ("fcfs", "none")


async def test_other_limits_of_a_key_hold_from_the_reload_on(tmp_path: Path) -> None:
    """A key's limits are taken over with it: who was held back by max_running goes on."""
    digest = hashlib.sha256(b"secret").hexdigest()
    key = KeySettings(sha256=digest, tenant="ann", max_running=1)
    async with (
        engine_of([400], slots=8) as engine,
        proxy_before(engine.url, state=tmp_path, window=8, keys=(key,)) as headway,
        aiohttp.ClientSession(headers={"authorization": "Bearer secret"}) as session,
    ):
        body = {"model": "emulated", "messages": [{"role": "user", "content": "hello"}]}

        async def ask() -> None:
            async with session.post(headway.url + CHAT, json=body) as response:
                assert response.status == 200
                await response.read()

        asked = [asyncio.ensure_future(ask()) for _ in range(8)]
        await eventually(lambda: headway.status().waiting >= 4)
        assert headway.status().running == 1
        raised = msgspec.structs.replace(key, max_running=None)
        headway.reload(msgspec.structs.replace(headway.settings, keys=(raised,)))
        assert headway.status().waiting == 0
        await asyncio.gather(*asked)


async def test_what_needs_a_restart_is_refused_whole(tmp_path: Path) -> None:
    """New classes cannot be taken over at run time; the error says so and nothing changes."""
    async with engine_of() as engine, proxy_before(engine.url, state=tmp_path) as headway:
        classes = (ClassSettings(name="standard"), ClassSettings(name="gold"))
        with pytest.raises(SettingsError, match="restart"):
            headway.reload(msgspec.structs.replace(headway.settings, policy="fcfs", classes=classes))
        assert headway.status().policy == "quantile"


async def test_a_contradiction_is_refused_whole(tmp_path: Path) -> None:
    """A policy without a bound for one of two classes of a tier: said as an error, and nothing at all changes."""
    shared = (ClassSettings(name="standard"), ClassSettings(name="gold"))
    unbounded = (ClassSettings(name="standard"), ClassSettings(name="gold", policy="sjf"))
    async with engine_of() as engine, proxy_before(engine.url, state=tmp_path, classes=shared) as headway:
        key = KeySettings(sha256=hashlib.sha256(b"secret").hexdigest(), tenant="ann", max_running=1)
        wanted = msgspec.structs.replace(headway.settings, classes=unbounded, keys=(key,), lane_share=0.5)
        before = in_force_at(headway)
        with pytest.raises(SettingsError, match="tier of its own"):
            headway.reload(wanted)
        assert in_force_at(headway) == before
        headway._order.fall(True)
        headway._order.fall(False)
        assert in_force_at(headway) == before


def in_force_at(headway: Headway) -> tuple[object, ...]:
    """All that a reload could change."""
    scheduler = headway._scheduler
    return (
        headway.settings,
        repr(headway._order),
        headway._order.ordering,
        headway._serving.identities,
        [one.policy.name for one in scheduler.classes],
        [tier.queue.lane_share for tier in scheduler.tiers],
        scheduler.weight_of("ann"),
        dict(scheduler._tenants),
    )


async def test_sighup_switches_a_serving_process_and_loses_nobody(tmp_path: Path) -> None:
    """The file is edited and the process told, three times and once with nonsense, while requests wait."""
    async with (
        engine_of([30], slots=1, base_s=2e-3) as engine,
        served(engine.url, window=1, policy="quantile") as process,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        body = {"model": "emulated", "messages": [{"role": "user", "content": "hello"}]}

        async def ask() -> str | None:
            async with session.post(process.url + CHAT, json=body) as response:
                assert response.status == 200
                await response.read()
                return response.headers["x-headway-policy"]

        async def in_force() -> tuple[str, float, int]:
            status = await process.status()
            return status["policy"], status["max_overtake_s"], status["waiting"]

        # They wait until the order has been changed for the last time.
        engine.inference.loop.set_slowness(1000)
        asked = [asyncio.ensure_future(ask()) for _ in range(40)]
        await eventually(lambda: waits(in_force, 30))
        for policy, max_overtake in (("fcfs", 0.0), ("quantile", 5.0), ("quantile", 60.0)):
            process.reload(policy=policy, max_overtake=max_overtake)
            await eventually(lambda: holds(in_force, policy, max_overtake))  # noqa: B023 - awaited here
        process.reload(policy="shortest")
        engine.inference.loop.set_slowness(1)
        policies = await asyncio.gather(*asked)
        assert (await in_force())[:2] == ("quantile", 60.0)
        assert set(policies) <= {"fcfs", "quantile"}
        assert (await process.status())["outcomes"] == {"completed": 40}


InForce = Callable[[], Awaitable[tuple[str, float, int]]]


async def waits(in_force: InForce, count: int) -> bool:
    """Whether at least so many wait."""
    return (await in_force())[2] >= count


async def holds(in_force: InForce, policy: str, max_overtake: float) -> bool:
    """Whether this order holds."""
    return (await in_force())[:2] == (policy, max_overtake)


async def test_a_hangup_during_the_start_is_obeyed_after_it(tmp_path: Path) -> None:
    """It neither ends the process nor is it forgotten; a later one is obeyed at once."""
    wanted = Settings(engine=("http://127.0.0.1:9",), policy="fcfs")
    hangup = Hangup(lambda: wanted)
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.05)
    async with engine_of([5]) as engine, proxy_before(engine.url, state=tmp_path) as headway:
        assert headway.status().policy == "quantile"
        hangup.reloads(headway)
        assert headway.status().policy == "fcfs"
        wanted = msgspec.structs.replace(wanted, policy="quantile")
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: headway.status().policy == "quantile")
    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
