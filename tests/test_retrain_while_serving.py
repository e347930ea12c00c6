"""The whole circle beside live traffic: the proxy's own child trains and publishes, and nobody is lost."""

import asyncio
import time
from pathlib import Path

import aiohttp
from harness import CHAT, engine_of, eventually, proxy_before
from logged_traffic import write_log

from predictor.registry import Role, read_pointer
from proxy.ranking import Ranking

STREAMS = 50
# Answers last longer than the child takes to read the log: they are not what it learns from.
TOKEN_S = 0.4
BODY = {"messages": [{"role": "user", "content": "Say hello."}], "stream": True, "max_tokens": 40}


async def test_retrained_and_swapped_under_fifty_streams(tmp_path: Path) -> None:
    """50 streams go on while `headway retrain` runs as the proxy's child: all are answered whole, and the artifact
    that it has published serves in the end, with the order that replay chose for it."""
    write_log(tmp_path, 400, since=int(time.time()) - 400)
    ranking = Ranking()
    ranking.load()
    async with (
        engine_of([40], slots=STREAMS, base_s=TOKEN_S) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=ranking) as headway,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        shipped = headway.status().artifact
        done = asyncio.Event()

        async def stream() -> tuple[int, int]:
            """Ask until the retraining is over; how often, and how many answers were whole."""
            asked = whole = 0
            while not done.is_set():
                async with session.post(headway.url + CHAT, json=BODY) as response:
                    whole += (await response.text()).rstrip().endswith("data: [DONE]")
                asked += 1
            return asked, whole

        streams = [asyncio.create_task(stream()) for _ in range(STREAMS)]
        retraining = headway._learning.retraining
        assert retraining is not None
        await retraining.retrain("a test asks for it")
        champion = read_pointer(tmp_path, Role.CHAMPION)
        await eventually(lambda: headway.status().artifact == champion)
        done.set()
        counts = await asyncio.gather(*streams)
        status = headway.status()
    assert champion is not None
    assert champion != shipped
    assert status.ranker.retraining is not None
    assert (status.ranker.retraining.runs, status.ranker.retraining.failures) == (1, 0)
    assert "published" in status.ranker.retraining.last
    assert status.order.chosen_by["policy"] == "artifact"
    assert sum(asked for asked, _ in counts) == sum(whole for _, whole in counts) >= STREAMS
    assert set(status.outcomes) == {"completed"}
