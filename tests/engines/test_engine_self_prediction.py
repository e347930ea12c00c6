"""On real engines: a waiting request's model is asked, tells, and finds the prompt in its cache afterwards."""

from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from crowd import SLOTS, chat, client, eventually, headway_before, on, send
from msgspec.structs import replace
from real_engines import EngineUnderTest

from predictor.request import Api, InferenceRequest
from predictor.self_query import ENDS, OPENINGS, SELF_NAMES, NoQuery, SelfQuery, build_query, read_signals
from proxy.app import Headway
from proxy.dialects import decode_answer
from proxy.ranking import Estimate, Ranking

pytestmark = pytest.mark.engines

_WORDS = "river stone cloud lamp green paper music seven winter garden silver window "


@on("vllm", "sglang")
async def test_an_engine_answers_the_query_of_every_form(real: EngineUnderTest) -> None:
    """Chat, completion, token ids and plain messages: each query brings one value for every signal."""
    turns = [{"role": "user", "content": "Say hello."}]
    bodies = [
        (Api.CHAT, {"model": real.model, "messages": turns}),
        (Api.COMPLETIONS, {"model": real.model, "prompt": "Once upon a time"}),
        (Api.COMPLETIONS, {"model": real.model, "prompt": [1, 2, 3, 4]}),
        (Api.MESSAGES, {"model": real.model, "max_tokens": 9, "messages": turns, "system": "Be kind."}),
    ]
    if real.kind == "sglang":
        bodies.append((Api.GENERATE, {"text": "Once upon a time"}))
    async with aiohttp.ClientSession(real.base_url) as session:
        chosen = tuple([ids[0] for text in OPENINGS if len(ids := await tokens_of(session, real, text)) == 1])
        for api, body in bodies:
            likeliest, prompt = await answered(session, real, api, body, ())
            openings, again = await answered(session, real, api, body, chosen)
            assert prompt in (again, 0), "the query by ids has another prompt"
            # Of openings beyond the likeliest twenty there is a value each.
            assert len(set(openings.values())) > 40 > len(set(likeliest.values()))


async def answered(
    session: aiohttp.ClientSession,
    real: EngineUnderTest,
    api: Api,
    body: dict[str, Any],
    ids: tuple[int, ...],
) -> tuple[dict[str, float], int]:
    """What one query tells, and how many tokens its prompt had; nothing and 0 where there is none."""
    query = build_query(msgspec.json.encode(body), api, sglang=real.kind == "sglang", token_ids=ids)
    if query is NoQuery.ROUTE and not ids:
        return {}, 0
    assert isinstance(query, SelfQuery)
    if query.render is not None:
        query = query.with_tokens(await post(session, "/tokenize", query.render))
    answer = await post(session, query.api.value, query.body)
    signals = read_signals(answer)
    assert set(signals) == set(SELF_NAMES)
    usage = decode_answer(answer, query.api).usage
    assert usage is not None
    return signals, usage.prompt_tokens or 0


async def post(session: aiohttp.ClientSession, path: str, body: bytes) -> bytes:
    """The body of a good answer."""
    async with session.post(path, data=body, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def tokens_of(session: aiohttp.ClientSession, real: EngineUnderTest, text: str) -> list[int]:
    """A text's token ids."""
    body = {"model": real.model, "prompt": text, "add_special_tokens": False}
    found = msgspec.json.decode(await post(session, "/tokenize", msgspec.json.encode(body)))
    return list(found["tokens"])


@on("vllm", "sglang")
async def test_chosen_openings_are_tokens_of_a_real_vocabulary(real: EngineUnderTest) -> None:
    """Nearly all openings, and one end, are one token of the model under test."""
    async with aiohttp.ClientSession(real.base_url) as session:
        single = sum([len(await tokens_of(session, real, text)) == 1 for text in (*OPENINGS, *ENDS)])
    assert single > 0.8 * len(OPENINGS)


def told_of(headway: Headway) -> dict[tuple[str, ...], float]:
    """How many requests were asked about with which result."""
    return {
        tuple(sample.labels.values()): sample.value
        for metric in headway.metrics.registry.collect()
        if metric.name == "headway_self_predictions"
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


class Unsure(Ranking):
    """Ranks as installed, and says that an answer may be of any length that its limit allows."""

    def estimate(self, request: InferenceRequest) -> Estimate:
        found = super().estimate(request)
        return replace(found, prediction=replace(found.prediction, p10_tokens=0.0))


@on("vllm", "sglang")
async def test_who_waits_is_asked_about_and_finds_its_prompt_cached(
    real: EngineUnderTest, tmp_path: Path
) -> None:
    """With the slots taken, requests near the front are asked about in time, and what the query computed of their
    prompts is found in the engine's cache."""
    # Places fall free one after another, not four at once.
    crowd = [
        chat(real, 0.5, 16 + 5 * (place % SLOTS))
        | {"messages": [{"role": "user", "content": f"{place} {_WORDS * 12}0.5"}]}
        for place in range(5 * SLOTS)
    ]
    ranking = Unsure()
    assert ranking.load()
    async with headway_before(
        real,
        tmp_path,
        window=SLOTS,
        estimator=ranking,
        self_prediction="on",
        self_prediction_share=0.5,
        self_prediction_deadline_s=20.0,
    ) as headway:
        async with client() as session:
            await send(session, headway, crowd)
        await eventually(lambda: sum(told_of(headway).values()) == len(crowd))
        told = told_of(headway)
        shares = headway.status().engines[0].self_prediction_cached_share
    assert told.get(("hit", ""), 0) >= 3, told
    assert shares is not None and shares >= 0.8
