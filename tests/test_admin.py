"""Who may read the figures and end the service."""

import hashlib
from pathlib import Path

import aiohttp
import pytest
from harness import engine_of, proxy_before

from proxy.identity import KeySettings


@pytest.mark.parametrize("sent_by_browsers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "none"}])
async def test_no_page_in_a_browser_drains_the_proxy(sent_by_browsers: dict[str, str]) -> None:
    """A forwarded admin port is reached from loopback, and by every page that is open there: none of them may drain."""
    async with (
        engine_of() as engine,
        proxy_before(engine.url, admin_port=0) as headway,
        aiohttp.ClientSession() as session,
    ):
        drain = f"http://127.0.0.1:{headway.admin_port}/headway/drain"
        async with session.post(drain, headers=sent_by_browsers) as refused:
            assert refused.status == 401
            assert (await refused.json())["error"]["code"] == "unauthorized"
        assert not headway.status().draining
        async with session.post(drain) as done:
            assert done.status == 200
        assert headway.status().draining


async def test_where_clients_have_keys_the_figures_want_one(tmp_path: Path) -> None:
    """Metrics name tenants and engines: on the client port nobody reads them without a key where there are keys."""
    key = KeySettings(sha256=hashlib.sha256(b"secret").hexdigest(), tenant="ann")
    async with (
        engine_of() as engine,
        proxy_before(engine.url, state=tmp_path, keys=(key,), admin_port=0) as headway,
        aiohttp.ClientSession() as session,
    ):
        url = headway.url + "/metrics"
        async with session.get(url) as refused:
            assert refused.status == 401
            assert b"headway_" not in await refused.read()
        async with session.get(url, headers={"Authorization": "Bearer secret"}) as given:
            assert given.status == 200
            assert b"headway_" in await given.read()
        async with session.get(f"http://127.0.0.1:{headway.admin_port}/metrics") as full:
            assert full.status == 200
