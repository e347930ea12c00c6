"""Self-prediction's promises: near the front, once, only where it can win, never in anybody's way."""

import msgspec
import pytest
from asking_model import TEXTS, Model, Told, Unsure, all_answered, arrive, proxy_asking, says, serve_five
from harness import ByMaxTokens, eventually, metrics_text
from scripted_engine import JSON, reply

from predictor.prediction import Prediction
from predictor.request import Api, InferenceRequest
from proxy.asking.make import make_asker
from proxy.clock import Clock
from proxy.engines.registry import Engines
from proxy.exchange import Exchange
from proxy.metrics import Metrics
from proxy.ranking import Fixed
from proxy.settings import Settings


class Certain(ByMaxTokens, frozen=True):
    """Believes `max_tokens`, and that it is out by a few tokens at most."""

    def predict(self, request: InferenceRequest) -> Prediction:
        said = super().predict(request)
        return Prediction(said.quantile, said.tokens, said.tokens, said.tokens + 15)


async def test_who_is_told_long_lets_others_pass() -> None:
    """A request that its text makes look shorter waits behind another once its model calls it long."""
    model = Model(says("The"))
    texts = [("running", 101), ("next", 102), ("a", 103), ("b", 104), ("looks short", 500), ("is long", 900)]
    async with proxy_asking(model) as headway:
        tasks = await arrive(headway, texts)
        model.let.release()
        await eventually(
            lambda: [one.predicted_tokens for one in headway.status().first_waiting] == [103, 104, 900, 8]
        )
        await all_answered(tasks, model)
        assert 'headway_self_predictions_total{reason="",result="hit"} 1.0' in await metrics_text(headway)
    assert model.served == ["running", "next", "a", "b", "is long", "looks short"]
    [query] = model.queries
    assert msgspec.json.decode(query.body)["messages"][-1]["content"] == "looks short"


async def test_a_request_that_an_engine_has_had_keeps_its_key() -> None:
    """A key changes at most once: who waits again after a refusal is not asked about again."""
    exchange = Exchange("r", Api.CHAT, 0)
    asker = make_asker(
        Settings(engine=()),
        None,
        dispatcher=None,  # type: ignore[arg-type]
        engines=Engines(None, None),  # type: ignore[arg-type]
        upstream=None,  # type: ignore[arg-type]
        estimator=Told(Unsure()),
        metrics=Metrics(),
        clock=Clock(),
    )
    assert asker is not None and asker.listens(exchange)
    exchange.attempts = 1
    assert not asker.listens(exchange)


async def test_a_model_that_never_answers_delays_nobody() -> None:
    """Queries that hang are given up; the requests go their way and are counted late."""
    model = Model()
    async with proxy_asking(model) as headway:
        await serve_five(headway, model)
        assert 'headway_self_predictions_total{reason="",result="late"} 1.0' in await metrics_text(headway)
    assert model.served == ["a", "b", "c", "d", "e"]


async def test_garbage_changes_nothing() -> None:
    """An answer without log-probabilities is counted and the order stays."""
    model = Model(reply(b"{}", JSON))
    async with proxy_asking(model) as headway:
        await serve_five(headway, model)
        assert "headway_self_prediction_failures_total 1.0" in await metrics_text(headway)
    assert model.served == ["a", "b", "c", "d", "e"]


async def test_whoever_need_not_wait_is_not_asked_about() -> None:
    """With room at the engine there is nothing to order, so nothing is asked."""
    model = Model(says("Yes"))
    async with proxy_asking(model) as headway:
        await all_answered(await arrive(headway, TEXTS[:1]), model)
        metrics = await metrics_text(headway)
    assert (model.served, model.queries) == (["a"], [])
    assert 'headway_self_predictions_total{reason="no_wait",result="skipped"} 1.0' in metrics


@pytest.mark.parametrize(("ranker", "most"), [(Told(Certain()), 100), (Told(Unsure()), 12)])
async def test_nobody_is_asked_about_what_is_known(ranker: Fixed, most: int) -> None:
    """Where a length is certain to within what a query costs, by itself or by the client's limit, none is sent."""
    model = Model(says("Yes"))
    async with proxy_asking(model, estimator=ranker) as headway:
        texts = [(text, most + place) for place, text in enumerate("abcde")]
        await all_answered(await arrive(headway, texts), model)
        # The first had no queue, and the second was gone before a place fell free.
        assert 'reason="certain",result="skipped"} 3.0' in await metrics_text(headway)
    assert model.queries == []


async def test_off_is_off() -> None:
    """With the setting off no query is sent."""
    model = Model(says("Yes"))
    async with proxy_asking(model, self_prediction="off") as headway:
        await all_answered(await arrive(headway, TEXTS), model)
    assert model.queries == []
