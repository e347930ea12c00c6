"""A ranker in service is held to its live accuracy: a bad one loses the order by itself, a proved one has it back."""

import asyncio
import logging
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp import web
from harness import CHAT, ask_raw, chat, engine_of, eventually, metrics_text, post, proxy_before, serving_app
from published import publish
from scripted_engine import JSON, ScriptedEngine, reply

from predictor.lightgbm_ranker import LightGBMRanker
from predictor.prediction import Prediction
from predictor.registry import Role, write_pointer
from predictor.request import InferenceRequest
from proxy.app import Headway
from proxy.class_settings import ClassSettings
from proxy.ranking import Estimate, Ranking
from training.emulator import EmulatedEngine

LONGEST = 60


class Told(Ranking):
    """A learned ranker that knows each answer's length, and may be told to lie."""

    def __init__(self) -> None:
        super().__init__()
        assert self.load()
        self.reversed = False

    def estimate(self, request: InferenceRequest) -> Estimate:
        true = (request.body.min_tokens or 0) / LONGEST
        said = 1 - true if self.reversed else true
        prediction = Prediction(said, said * LONGEST, 1, LONGEST)
        return msgspec.structs.replace(
            super().estimate(request), prediction=prediction, scored=prediction, artifact=self.artifact_id
        )


async def ask(headway: Headway, tokens: int, **fields: Any) -> str | None:
    """Ask for an answer of so many tokens; gives the policy that ordered it."""
    got = await ask_raw(headway, post(CHAT, chat(min_tokens=tokens, max_tokens=LONGEST * 2, **fields)))
    assert got.status == 200
    return got.header("x-headway-policy")


async def crowd(headway: Headway, count: int, seed: int = 1) -> set[str | None]:
    """Many requests at once, of mixed lengths; gives the policies that their answers name."""
    rng = random.Random(seed)
    return set(await asyncio.gather(*(ask(headway, rng.randint(1, LONGEST)) for _ in range(count))))


async def test_a_reversed_ranker_loses_the_order_and_a_good_one_has_it_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reversed predictions end in first come, first served, said in log, metrics, status and answers; meanwhile
    predictions go on, and once they are proved good the configured order is back."""
    ranking = Told()
    caplog.set_level(logging.INFO, "headway.guardrail")
    async with (
        engine_of([1], slots=8) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=ranking, window=8) as headway,
    ):
        assert "headway_fallback_fcfs 0.0" in await metrics_text(headway)
        assert "headway_live_pairwise_accuracy NaN" in await metrics_text(headway)
        ranking.reversed = True
        await crowd(headway, 60)
        await eventually(lambda: headway.status().policy == "fcfs")
        assert await ask(headway, 5) == "fcfs"
        text = await metrics_text(headway)
        assert "headway_fallback_fcfs 1.0" in text
        assert "headway_live_pairwise_accuracy 0.0" in text
        assert headway.status().ranker.fallen_back
        assert "falls back to first come, first served" in caplog.text
        headway.reload(headway.settings)
        assert headway.status().policy == "fcfs"
        ranking.reversed = False
        rounds = 0
        while headway.status().policy == "fcfs":
            rounds += 1
            assert rounds <= 20
            await crowd(headway, 60, seed=rounds)
            await asyncio.sleep(0.5)
        assert "its order is back" in caplog.text
        assert await ask(headway, 5) == "quantile"


@pytest.mark.parametrize(
    ("mode", "stream", "at_once"), [("hybrid", True, 1), ("hybrid", False, 1), ("engine", True, 0)]
)
async def test_streams_and_others_are_compared_from_when_they_were_sent(
    tmp_path: Path, mode: str, stream: bool, at_once: int
) -> None:
    """All alike, so that the guardrail sees them in the order in which they went; but not where the engine's own queue
    is where they wait. Several answers, which take no longer than one, are not compared with one."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def engine(_: web.Request) -> web.Response:
        asked.set()
        await answer.wait()
        return web.json_response({"choices": [{"finish_reason": "stop"}], "usage": {"completion_tokens": 5}})

    async def healthy(_: web.Request) -> web.Response:
        return web.Response()

    async with (
        serving_app(web.post(CHAT, engine), web.get("/health", healthy)) as url,
        proxy_before(url, state=tmp_path, estimator=Told(), mode=mode) as headway,
    ):
        order = headway._learning.guardrail.order
        client = asyncio.create_task(ask(headway, 5, stream=stream))
        await asked.wait()
        assert order._next == at_once
        answer.set()
        await client
        assert order._next == 1
        await ask(headway, 5, stream=stream, n=2)
        assert order._next == 1


async def test_whom_an_engine_refused_does_not_run_while_it_waits_again(tmp_path: Path) -> None:
    """Else it would be counted as longer than everybody who is answered meanwhile."""
    busy = b'{"error":{"message":"The engine is currently busy.","type":"x","param":null,"code":503}}'
    async with (
        ScriptedEngine(reply(busy, JSON, status="503 x")) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=Told(), engine_kind="vllm") as headway,
    ):
        client = asyncio.create_task(ask(headway, 5))
        await eventually(lambda: headway.status().engines[0].window == 0)
        order = headway._learning.guardrail.order
        assert order._next > 0
        assert not np.isnan(order._took_us[: order._next]).any()
        client.cancel()
        await asyncio.gather(client, return_exceptions=True)


async def test_who_waits_is_put_in_order_of_arrival_at_once(tmp_path: Path) -> None:
    """The fall-back holds for those already waiting: from then on the oldest goes first."""
    ranking = Told()
    ranking.reversed = True
    async with (
        engine_of([1], slots=4) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=ranking, window=4) as headway,
    ):
        clients = asyncio.create_task(crowd(headway, 150))
        await eventually(lambda: headway.status().ranker.fallen_back)
        waited = [one.waited_s for one in headway.status().first_waiting]
        assert len(waited) == 20
        assert waited == sorted(waited, reverse=True)
        await clients
        assert headway.status().outcomes == {"completed": 150}


async def test_a_class_that_goes_by_arrival_stays_as_it_is(tmp_path: Path) -> None:
    """The fall-back takes the order from classes that go by predictions, with each one's own D."""
    classes = (
        ClassSettings(name="standard", max_overtake=30.0),
        ClassSettings(name="batch", policy="fcfs"),
    )
    async with (
        engine_of([1]) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=Told(), classes=classes) as headway,
    ):
        headway._order.fall(True)
        standard, batch = (headway._scheduler.policy_of(one.name) for one in classes)
        somebody = Prediction(0.9, 100, 10, 1000)
        assert (standard.name, standard.key_us(7, somebody)) == ("fcfs", 7 + 30_000_000)
        assert (batch.name, batch.key_us(7, somebody)) == ("fcfs", 7)
        headway._order.fall(False)
        assert headway._scheduler.policy_of("standard").name == "quantile"


async def test_answers_cut_at_their_limit_are_no_proof(tmp_path: Path) -> None:
    """Where every answer is cut, nobody knows which would have been longer: nothing falls."""
    ranking = Told()
    ranking.reversed = True
    async with (
        engine_of([1]) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=ranking) as headway,
    ):
        rng = random.Random(1)
        for _ in range(60):
            tokens = rng.randint(1, LONGEST)
            await ask_raw(headway, post(CHAT, chat(min_tokens=tokens, max_tokens=tokens, ignore_eos=True)))
        await eventually(lambda: headway.status().ranker.accuracy_requests == 60)
        assert headway.status().ranker.accuracy is None
        assert not headway.status().ranker.fallen_back


async def test_a_ranker_that_raises_is_counted(
    engine: EmulatedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that cannot be ranked are answered all the same, and /metrics counts them."""
    ranking = Ranking()
    assert ranking.load()
    async with proxy_before(engine.url, state=tmp_path, estimator=ranking) as headway:
        assert "headway_ranker_failures_total 0.0" in await metrics_text(headway)
        monkeypatch.setattr(LightGBMRanker, "features", lambda *_: 1 / 0)
        assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
        assert "headway_ranker_failures_total 1.0" in await metrics_text(headway)


async def test_expected_tokens_follow_what_comes(tmp_path: Path) -> None:
    """After some hundred answers of a length that the artifact does not expect, the header's tokens are nearer to
    it than at the start: admission and Retry-After go by what really comes."""
    ranking = Ranking()
    assert ranking.load()
    async with (
        engine_of([3]) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=ranking) as headway,
    ):

        async def predicted() -> int:
            body = chat("Write a long essay about the sea.", max_tokens=900)
            got = await ask_raw(headway, post(CHAT, body))
            return int(got.header("x-headway-predicted-tokens") or 0)

        first = await predicted()
        for _ in range(8):
            await asyncio.gather(*(predicted() for _ in range(20)))
        assert first > 12
        assert await predicted() < first / 2
        assert headway.status().ranker.recalibrated_groups >= 3


async def test_a_shadow_is_scored_beside_the_champion(tmp_path: Path) -> None:
    """Its accuracy stands beside the champion's on the same requests, in status and metrics; it orders nothing,
    and goes when its pointer goes."""
    ranking = Told()
    async with (
        engine_of([1]) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=ranking) as headway,
    ):
        champion = headway.status().artifact
        shadow = publish(tmp_path, "shadow", Role.SHADOW)
        await eventually(lambda: headway.status().ranker.shadow is not None)
        rounds = 0
        while (seen := headway.status().ranker.shadow) is None or seen.accuracy is None:
            rounds += 1
            assert rounds < 60
            await crowd(headway, 16, seed=rounds)
            await asyncio.sleep(0.3)
        assert seen.artifact == shadow
        assert seen.champion_accuracy == 1.0
        assert seen.accuracy < 1.0
        assert f"headway_shadow_pairwise_accuracy {seen.accuracy:.3f}"[:-2] in await metrics_text(headway)
        assert headway.status().artifact == champion
        write_pointer(tmp_path, Role.SHADOW, None)
        await eventually(lambda: headway.status().ranker.shadow is None)


async def test_a_shadow_that_fails_ends_itself_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shadow that raises is dropped with one line; requests and champion never notice."""
    publish(tmp_path, "shadow", Role.SHADOW)
    ranking = Told()
    async with (
        engine_of([1]) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=ranking) as headway,
    ):
        shadow = headway._learning.shadow._ranker
        assert shadow is not None
        monkeypatch.setattr(shadow, "score", lambda _: 1 / 0)
        await crowd(headway, 5)
        await eventually(lambda: headway.status().ranker.shadow is None)
        assert "is watched no longer" in caplog.text
        assert headway.status().ranker.failures == 0
        await crowd(headway, 5)
