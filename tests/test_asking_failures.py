"""Queries that fail, and engines that leave or come back: counted by what happened, and nothing is believed on."""

import pytest
from asking_model import TEXTS, Model, all_answered, arrive, asking, proxy_asking, says, serve_five
from harness import PATIENCE_S, ByMaxTokens, eventually, metrics_text, proxy_before
from scripted_engine import JSON, ScriptedEngine, reply

from predictor.request import Api
from proxy.answers import Usage
from proxy.app import Headway
from proxy.asking.make import make_asker
from proxy.clock import Clock
from proxy.engines.registry import Engines
from proxy.exchange import Asked, Exchange
from proxy.metrics import Metrics
from proxy.ranking import Fixed
from proxy.settings import Settings


async def result(headway: Headway, name: str) -> float:
    """How many requests' asking had this result."""
    lines = (await metrics_text(headway)).splitlines()
    start = f'headway_self_predictions_total{{reason="",result="{name}"}} '
    return float(next(line for line in lines if line.startswith(start)).removeprefix(start))


@pytest.mark.parametrize(("query", "deadline_s"), [(reply(b"{}", JSON), PATIENCE_S), (None, 0.05)])
async def test_a_query_that_fails_in_time_is_not_late(query: bytes | None, deadline_s: float) -> None:
    """Garbage, or no answer by the deadline, while the request waits on: its asking failed, and is not late."""
    model = Model(query)
    async with proxy_asking(model, self_prediction_deadline_s=deadline_s) as headway:
        tasks = await arrive(headway, TEXTS)
        model.let.release()

        async def failed() -> bool:
            return "headway_self_prediction_failures_total 1.0" in await metrics_text(headway)

        await eventually(failed)
        await all_answered(tasks, model)
        assert (await result(headway, "failed"), await result(headway, "late")) == (1, 0)


async def test_a_query_that_is_out_when_its_request_goes_is_late() -> None:
    """An engine that does not answer in time, without having failed yet, makes the asking late."""
    model = Model()
    async with proxy_asking(model) as headway:
        await serve_five(headway, model)
        assert len(model.queries) == 1
        assert (await result(headway, "failed"), await result(headway, "late")) == (0, 1)


async def test_an_engine_that_comes_back_is_judged_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its cache kept of queries before tells nothing of what was started in its place."""
    monkeypatch.setattr("proxy.health._INTERVAL_S", 0.05)
    model = Model(says("Yes"))
    async with ScriptedEngine(model) as engine, proxy_before(engine.url, **asking()) as headway:
        await serve_five(headway, model)
        assert headway.status().engines[0].self_prediction_cached_share == 0.0
        engine.healthy = False
        await eventually(lambda: not headway.status().engines[0].available)
        engine.healthy = True
        await eventually(lambda: headway.status().engines[0].available)
        assert headway.status().engines[0].self_prediction_cached_share is None


async def test_an_engine_that_left_is_not_judged() -> None:
    """An exchange whose engine has left before it ended, after a query, ends like any other."""
    engines = Engines(None, None)  # type: ignore[arg-type]
    asker = make_asker(
        Settings(engine=()),
        None,
        dispatcher=None,  # type: ignore[arg-type]
        engines=engines,
        upstream=None,  # type: ignore[arg-type]
        estimator=Fixed(ByMaxTokens()),
        metrics=Metrics(),
        clock=Clock(),
    )
    assert asker is not None
    exchange = Exchange("r", Api.CHAT, 0)
    exchange.asked, exchange.replica = Asked("http://gone", 0), "http://gone"
    exchange.usage = Usage(prompt_tokens=100, completion_tokens=1)
    engines.remove("http://gone")
    asker.judge(exchange)
    assert asker.cached_share("http://gone") is None
