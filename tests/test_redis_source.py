"""Traffic logged in Redis is read by train, evaluate and replay like any other, and its password never shown."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from harness import CHAT
from redis_server import RedisServer, redis_server

import headway
from predictor.features.schema import Features
from predictor.history import History
from predictor.lightgbm_ranker import LightGBMRanker
from predictor.records import Outcome, TrafficRecord
from predictor.redis_address import RedisAddress
from predictor.request import Api, InferenceRequest, RequestBody, body_from_dict
from proxy.shared.link import Link
from proxy.shared.traffic import StreamLog
from training.sources import DataError, read_source, shown

SECRET = "xylophonesecret"
DAY_US = 24 * 3600 * 10**6


async def fill(server: RedisServer, rows: int, password: str = "") -> None:
    """A stream as proxies write it: features of the wheel's ranker, lengths that follow one of them."""
    ranker = LightGBMRanker.load(history=History())
    rng = np.random.default_rng(1)
    link = Link(RedisAddress(f"redis://:{password}@127.0.0.1:{server.port}"))
    log = StreamLog(link, "p", keep_rows=100_000)
    for number in range(rows):
        features, tokens = _asked(ranker, int(rng.integers(1, 40)), rng)
        log.put(
            TrafficRecord(
                f"r{number:06}",
                number * DAY_US // rows,
                CHAT,
                Outcome.COMPLETED,
                model="m",
                output_tokens=tokens,
                prompt_tokens=20,
                finish_reason="stop",
                schema=features.schema.id,
                features=features.to_bytes(),
            ),
            features.schema,
        )
    await log.close()
    await link.close()


def _asked(ranker: LightGBMRanker, words: int, rng: np.random.Generator) -> tuple[Features, int]:
    body: RequestBody = body_from_dict({"messages": [{"role": "user", "content": "why " * words}]})
    features, _ = ranker.features(InferenceRequest("r", Api.CHAT, body, 0))
    return features, int(words * 10 * rng.lognormal(0, 0.2)) + 1


async def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run `headway …` in a thread; its status, and all that it printed."""
    status = await asyncio.to_thread(headway.main, words)
    captured = capsys.readouterr()
    return status, captured.out + captured.err


async def test_train_evaluate_and_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The three commands take redis:// as their source, with a password, and print and keep it nowhere."""
    async with redis_server(tmp_path, "--requirepass", SECRET) as server:
        await fill(server, 600, SECRET)
        source = f"redis://:{SECRET}@127.0.0.1:{server.port}/0"
        artifact = tmp_path / "made"
        status, said = await command(capsys, "train", "--from", source, "--out", str(artifact), "--json")
        assert status == 0, said
        status, evaluated = await command(
            capsys, "evaluate", "--artifact", str(artifact), "--on", source, "--json"
        )
        assert status == 0, evaluated
        assert json.loads(evaluated[evaluated.index("{") :])["kendall_tau_b"] > 0.5
        status, replayed = await command(
            capsys,
            "replay",
            "--on",
            source,
            "--requests",
            "200",
            "--loads",
            "0.9",
            "--policies",
            "fcfs,quantile",
        )
        assert status == 0, replayed
        assert f"redis://127.0.0.1:{server.port}/0" in replayed
    for text in (said, evaluated, replayed, *(path.read_text() for path in artifact.glob("*.json"))):
        assert SECRET not in text


async def test_a_span_of_time(tmp_path: Path) -> None:
    """`since` and `until` in the URL choose by arrival."""
    async with redis_server(tmp_path) as server:
        await fill(server, 240)
        span = f"{server.url}?since=1970-01-01T06:00&until=1970-01-01T12:00:00%2B00:00"
        rows = await asyncio.to_thread(lambda: list(read_source(span)))
    assert [row.row["id"] for row in rows] == [f"r{number:06}" for number in range(60, 120)]


BAD = [
    ("redis://:%s@127.0.0.1:9/0", "gives no traffic log"),
    ("redis://:%s@127.0.0.1:9/0?since=yesterday", "yesterday"),
    ("redis://:%s@127.0.0.1:9/x", "number"),
    ("redis://:%s/@127.0.0.1:9/0", "percent-encode|give redis"),
    ("redis://:%s@127.0.0.1:9/0?decode_responses=1", "ssl_ca_certs"),
    ("rediss://:%s@127.0.0.1:9/0?ssl_ca_certs=/none", "gives no traffic log"),
]


@pytest.mark.parametrize(("source", "said"), BAD)
def test_a_source_that_cannot_be_read(source: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One clear line, without the password."""
    with pytest.raises(DataError, match=said) as caught:
        list(read_source(source % SECRET))
    assert SECRET not in str(caught.value)
    for verb in (["train", "--out", "/none"], ["replay"]):
        flag = "--from" if verb[0] == "train" else "--on"
        assert headway.main([*verb, flag, source % SECRET]) != 0
        captured = capsys.readouterr()
        assert SECRET not in captured.err + captured.out
        assert captured.err.count("\n") == 1


async def test_an_entry_that_is_no_record_costs_itself_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that somebody else has added, or that a newer version wrote, must not keep a fleet from ever retraining."""
    async with redis_server(tmp_path) as server:
        await fill(server, 10)
        for junk in ({"x": "y"}, {"r": "{"}, {"r": b"\xff"}):
            await server.client.xadd("headway:traffic", junk)
        assert len(await asyncio.to_thread(lambda: list(read_source(server.url)))) == 10
    assert "damaged rows left out: 3" in caplog.text


async def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    """Entries of others under the stream's name, and an empty stream, are one clear error or no rows."""
    async with redis_server(tmp_path) as server:
        assert await asyncio.to_thread(lambda: list(read_source(server.url))) == []
        for junk in ({"x": "y"}, {"r": "{"}):
            await server.client.delete("headway:traffic")
            await server.client.xadd("headway:traffic", junk)
            with pytest.raises(DataError, match="not a readable traffic log"):
                await asyncio.to_thread(lambda: list(read_source(server.url)))
        await server.client.delete("headway:traffic")
        await server.client.set("headway:traffic", "x")
        with pytest.raises(DataError, match="WRONGTYPE"):
            await asyncio.to_thread(lambda: list(read_source(server.url)))


@pytest.mark.parametrize("password", ["", ":wrong@"])
async def test_a_missing_or_wrong_password_is_asked_for(tmp_path: Path, password: str) -> None:
    """Redis's own words of HELLO and AUTH tell an operator nothing to do."""
    async with redis_server(tmp_path, password=SECRET) as server:
        source = f"redis://{password}127.0.0.1:{server.port}/0"
        with pytest.raises(DataError, match=r"it wants another password \(HEADWAY_REDIS_PASSWORD\)"):
            await asyncio.to_thread(lambda: list(read_source(source)))


def test_a_password_is_not_shown() -> None:
    """However odd it is, the part before the last @ is left out."""
    assert shown("redis://u:p@ss@host:1/0?since=2026-01-01") == "redis://host:1/0?since=2026-01-01"
    assert shown("rediss://host") == "rediss://host"
    assert shown("a@b.jsonl") == "a@b.jsonl"
