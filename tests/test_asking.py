"""Self-prediction's promises: near the front, once, within its budget, never in anybody's way."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from harness import CHAT, ByMaxTokens, chat, eventually, metrics_text, proxy_before, session
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import JSON, Call, ScriptedEngine, reply

from predictor.prediction import Prediction
from predictor.request import Api, InferenceRequest
from proxy.asking.gate import AskGate, AskLimits, Skip
from proxy.asking.make import make_asker
from proxy.clock import Clock
from proxy.engines.registry import Engines
from proxy.exchange import Exchange
from proxy.metrics import Metrics
from proxy.ranking import Estimate, Fixed
from proxy.settings import Settings

SECOND_US = 1_000_000


class Told(Fixed, frozen=True):
    """Believes what the model says: an answer that begins with 'Yes' is the shortest of all."""

    @property
    def uses_signals(self) -> bool:
        return True

    def refine(self, estimate: Estimate, signals: Mapping[str, float], now_s: float) -> Estimate:
        short = signals["self.opens.Yes"] > -1
        return msgspec.structs.replace(estimate, prediction=Prediction(0.0 if short else 1.0, 8.0, 1.0, 99.0))


class Unsure(ByMaxTokens, frozen=True):
    """Believes `max_tokens` and does not quite trust it, least of all where the text says how long it looks."""

    def predict(self, request: InferenceRequest) -> Prediction:
        said = super().predict(request)
        looks = str(request.body.messages[-1].content if request.body.messages else "").startswith("looks")
        return Prediction(said.quantile, said.tokens, 1.0, 2000.0 if looks else 100.0)


class Certain(ByMaxTokens, frozen=True):
    """Believes `max_tokens`, and that it is out by a few tokens at most."""

    def predict(self, request: InferenceRequest) -> Prediction:
        said = super().predict(request)
        return Prediction(said.quantile, said.tokens, said.tokens, said.tokens + 15)


class Model:
    """An engine that answers requests when it is let, and queries at once."""

    def __init__(self, query: bytes | None = None) -> None:
        self.query = query
        self.served: list[str] = []
        self.queries: list[Call] = []
        self.let = asyncio.Semaphore(0)

    async def __call__(self, call: Call) -> None:
        body = msgspec.json.decode(call.body)
        text = body["messages"][-1]["content"]
        if body.get("logprobs"):
            self.queries.append(call)
            if self.query is None:
                await call.closed()
            else:
                await call.send(self.query)
            return
        self.served.append(text)
        await self.let.acquire()
        answer = {
            "choices": [{"finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 1},
        }
        await call.send(reply(msgspec.json.encode(answer), JSON))


def says(token: str) -> bytes:
    """A query's answer: it would begin with this token."""
    listed = [{"token": token, "logprob": -0.1}, {"token": "other", "logprob": -3.0}]
    return reply(
        msgspec.json.encode({"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}]}), JSON
    )


async def send(client: Any, url: str, text: str, tokens: int) -> int:
    """One chat; gives its status."""
    async with client.post(
        url + CHAT, data=chat(text, max_tokens=tokens), headers={"content-type": "application/json"}
    ) as r:
        await r.read()
        return int(r.status)


@pytest.fixture
def asking() -> dict[str, Any]:
    """Settings under which one request runs and the others wait."""
    return {
        "estimator": Told(Unsure()),
        "self_prediction": "on",
        "engine_kind": "vllm",
        "window": 1,
        "self_prediction_deadline_s": 5.0,
    }


async def run(model: Model, texts: list[tuple[str, int]], **settings: Any) -> tuple[list[str], str]:
    """Requests that come while the first one runs; who was served when, and the metrics."""
    async with (
        ScriptedEngine(model) as engine,
        proxy_before(engine.url, **settings) as headway,
        session() as client,
    ):
        tasks = await arrive(client, headway, texts)
        for count in range(1, len(texts) + 1):
            model.let.release()
            await eventually(lambda count=count: len(model.served) >= min(len(texts), count + 1))
            await eventually(lambda count=count: len(model.queries) >= (1 < count + 1 < len(texts)))
            await asyncio.sleep(0.02)
        assert await asyncio.gather(*tasks) == [200] * len(texts)
        return model.served, await metrics_text(headway)


async def arrive(client: Any, headway: Any, texts: list[tuple[str, int]]) -> list[asyncio.Task[int]]:
    """Send requests so that each has come in before the next one does."""
    tasks = []
    for text, tokens in texts:
        tasks.append(asyncio.create_task(send(client, headway.url, text, tokens)))
        await eventually(lambda: headway.status().waiting + headway.status().running == len(tasks))
    return tasks


async def test_who_is_told_long_lets_others_pass(asking: dict[str, Any]) -> None:
    """A request that its text makes look shorter waits behind another once its model calls it long."""
    model = Model(says("The"))
    texts = [("running", 101), ("next", 102), ("a", 103), ("b", 104), ("looks short", 500), ("is long", 900)]
    async with (
        ScriptedEngine(model) as engine,
        proxy_before(engine.url, **asking) as headway,
        session() as client,
    ):
        tasks = await arrive(client, headway, texts)
        model.let.release()
        await eventually(
            lambda: [one.predicted_tokens for one in headway.status().first_waiting] == [103, 104, 900, 8]
        )
        for _ in range(5):
            model.let.release()
        assert await asyncio.gather(*tasks) == [200] * 6
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


async def test_a_model_that_never_answers_delays_nobody(asking: dict[str, Any]) -> None:
    """Queries that hang are given up; the requests go their way and are counted late."""
    served, metrics = await run(
        Model(), [("a", 101), ("b", 102), ("c", 103), ("d", 104), ("e", 105)], **asking
    )
    assert served == ["a", "b", "c", "d", "e"]
    assert 'headway_self_predictions_total{reason="",result="late"} 1.0' in metrics


async def test_garbage_changes_nothing(asking: dict[str, Any]) -> None:
    """An answer without log-probabilities is counted and the order stays."""
    served, metrics = await run(
        Model(reply(b"{}", JSON)), [("a", 101), ("b", 102), ("c", 103), ("d", 104), ("e", 105)], **asking
    )
    assert served == ["a", "b", "c", "d", "e"]
    assert "headway_self_prediction_failures_total 1.0" in metrics


async def test_whoever_need_not_wait_is_not_asked_about(asking: dict[str, Any]) -> None:
    """With room at the engine there is nothing to order, so nothing is asked."""
    model = Model(says("Yes"))
    served, metrics = await run(model, [("a", 101)], **asking)
    assert (served, model.queries) == (["a"], [])
    assert 'headway_self_predictions_total{reason="no_wait",result="skipped"} 1.0' in metrics


@pytest.mark.parametrize(("ranker", "most"), [(Told(Certain()), 100), (Told(Unsure()), 12)])
async def test_nobody_is_asked_about_what_is_known(asking: dict[str, Any], ranker: Fixed, most: int) -> None:
    """Where a length is certain to within what a query costs, by itself or by the client's limit, none is sent."""
    model = Model(says("Yes"))
    async with (
        ScriptedEngine(model) as engine,
        proxy_before(engine.url, **asking | {"estimator": ranker}) as headway,
        session() as client,
    ):
        tasks = await arrive(client, headway, [(text, most + place) for place, text in enumerate("abcde")])
        for _ in tasks:
            model.let.release()
        assert await asyncio.gather(*tasks) == [200] * 5
        assert model.queries == []
        # The first had no queue, and the second was gone before a place fell free.
        assert 'reason="certain",result="skipped"} 3.0' in await metrics_text(headway)


async def test_off_is_off(asking: dict[str, Any]) -> None:
    """With the setting off no query is sent."""
    model = Model(says("Yes"))
    async with (
        ScriptedEngine(model) as engine,
        proxy_before(engine.url, **asking | {"self_prediction": "off"}) as headway,
        session() as client,
    ):
        tasks = await arrive(client, headway, [("a", 101), ("b", 102), ("c", 103)])
        for _ in tasks:
            model.let.release()
        assert await asyncio.gather(*tasks) == [200] * 3
        assert model.queries == []


@given(
    st.floats(0.01, 0.5),
    st.integers(1, 64),
    st.lists(st.tuples(st.integers(0, SECOND_US), st.floats(0.001, 2)), max_size=60),
)
def test_the_budget_is_kept(share: float, slots: int, asks: list[tuple[int, float]]) -> None:
    """What queries took never exceeds their share of the slots' time by more than what may be saved up, plus
    the one query that was under way."""
    gate = AskGate(AskLimits(share, 1.0), 0)
    now_us, spent_s, longest_s = 0, 0.0, 0.0
    for wait_us, took_s in asks:
        now_us += wait_us
        if gate.refuses(slots, now_us) is None:
            gate.asked()
            gate.ended(took_s, now_us, answered=True)
            spent_s += took_s
            longest_s = max(longest_s, took_s)
    assert spent_s <= 1.0 + share * slots * (now_us / 1e6) + longest_s + 1e-6


def test_five_failures_open_the_circuit_and_one_success_closes_it() -> None:
    """After failures nobody is asked for 30 s, then one; if that is answered, all are again."""
    gate = AskGate(AskLimits(0.5, 1.0), 0)
    for _ in range(5):
        assert gate.refuses(8, 0) is None
        gate.asked()
        gate.ended(0.0, 0, answered=False)
    assert gate.refuses(8, 29 * SECOND_US) is Skip.CIRCUIT
    assert gate.refuses(8, 31 * SECOND_US) is None
    gate.asked()
    assert gate.refuses(8, 31 * SECOND_US) is Skip.CIRCUIT
    gate.ended(0.0, 31 * SECOND_US, answered=True)
    gate.asked()
    assert gate.refuses(8, 31 * SECOND_US) is None


def test_an_engine_that_reuses_nothing_is_not_asked() -> None:
    """Where requests do not find what their queries computed, asking stops for ten minutes."""
    gate = AskGate(AskLimits(), 0)
    for _ in range(8):
        gate.reused(0, 0, 0)
        assert gate.refuses(8, 0) is None
        gate.reused(10, 100, 0)
    assert gate.refuses(8, 0) is Skip.NOT_CACHED
    assert gate.refuses(8, 601 * SECOND_US) is None


def test_few_are_asked_about_at_once() -> None:
    """A small engine answers one query at a time."""
    gate = AskGate(AskLimits(0.03, 0.03), 0)
    gate.asked()
    assert gate.refuses(16, 0) is Skip.BUSY
    assert gate.refuses(100, 0) is None


def test_a_ranker_that_cannot_use_signals_costs_a_part() -> None:
    """While signals are only collected, a part of the budget is earned."""
    gate = AskGate(AskLimits(0.1, 1.0), 0)
    gate.asked()
    gate.ended(2.0, 0, answered=True)
    assert gate.refuses(10, SECOND_US, 0.5) is Skip.BUDGET
    assert gate.refuses(10, 3 * SECOND_US, 0.5) is None
