"""Policies switched at run time, by SIGHUP's path."""

import asyncio
from pathlib import Path

import aiohttp
import msgspec
import pytest
from harness import CHAT, engine_of, eventually, proxy_before

from proxy.settings import ClassSettings, SettingsError


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

            asked = [asyncio.ensure_future(ask()) for _ in range(12)]
            await eventually(lambda: headway.status().waiting >= 8)
            headway.reload(msgspec.structs.replace(headway.settings, policy="fcfs"))
            policies = await asyncio.gather(*asked)
        assert headway.status().policy == "fcfs"
        assert set(policies) <= {"fcfs", "quantile"}
        assert headway.status().outcomes == {"completed": 12}


async def test_what_needs_a_restart_is_refused_whole(tmp_path: Path) -> None:
    """New classes cannot be taken over at run time; the error says so and nothing changes."""
    async with engine_of() as engine, proxy_before(engine.url, state=tmp_path) as headway:
        classes = (ClassSettings(name="standard"), ClassSettings(name="gold"))
        with pytest.raises(SettingsError, match="restart"):
            headway.reload(msgspec.structs.replace(headway.settings, policy="fcfs", classes=classes))
        assert headway.status().policy == "quantile"
