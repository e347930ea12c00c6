"""What the tests of self-prediction share: an engine that is asked, rankers that listen, requests that wait."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from harness import CHAT, PATIENCE_S, ByMaxTokens, ask_raw, chat, eventually, post, proxy_before
from scripted_engine import JSON, Call, ScriptedEngine, reply
from wire import Message

from predictor.prediction import Prediction
from predictor.request import InferenceRequest
from proxy.app import Headway
from proxy.ranking import Estimate, Fixed

TEXTS = [("a", 101), ("b", 102), ("c", 103), ("d", 104), ("e", 105)]


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


def asking(**changes: Any) -> dict[str, Any]:
    """Settings under which one request runs and the others wait, and no query is given up in haste."""
    return {
        "estimator": Told(Unsure()),
        "self_prediction": "on",
        "engine_kind": "vllm",
        "window": 1,
        "self_prediction_deadline_s": PATIENCE_S,
        **changes,
    }


@asynccontextmanager
async def proxy_asking(model: Model, **changes: Any) -> AsyncIterator[Headway]:
    """A proxy with these settings before that model."""
    async with ScriptedEngine(model) as engine, proxy_before(engine.url, **asking(**changes)) as headway:
        yield headway


async def arrive(
    headway: Headway, texts: list[tuple[str, int]], *headers: str
) -> list[asyncio.Task[Message]]:
    """Send chats, each with its `max_tokens`, so that each has come in before the next one does."""
    tasks: list[asyncio.Task[Message]] = []
    for text, tokens in texts:
        request = post(CHAT, chat(text, max_tokens=tokens), *headers)
        tasks.append(asyncio.create_task(ask_raw(headway, request)))
        await eventually(lambda: headway.status().waiting + headway.status().running == len(tasks))
    return tasks


async def all_answered(tasks: list[asyncio.Task[Message]], model: Model) -> None:
    """Let the engine answer whoever is left, and see that each got its answer."""
    for _ in tasks:
        model.let.release()
    assert [answer.status for answer in await asyncio.gather(*tasks)] == [200] * len(tasks)


async def serve_five(headway: Headway, model: Model) -> None:
    """Five requests; once the first is answered one of them is asked about, and the rest go when that has ended,
    or while it hangs."""
    tasks = await arrive(headway, TEXTS)
    model.let.release()
    await eventually(lambda: bool(model.queries))
    asker = headway._asker
    assert asker is not None
    if model.query is not None:
        await eventually(lambda: not asker._tasks)
    await all_answered(tasks, model)
