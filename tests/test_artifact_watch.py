"""New artifacts are taken while requests run; broken ones cost a line in the log and nothing else."""

import asyncio
import logging
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from harness import CHAT, PATIENCE_S, ask_raw, chat, engine_of, eventually, metrics_text, post, proxy_before
from published import add_artifact, publish

from predictor.artifact import METADATA
from predictor.errors import TrialUnfinishedError
from predictor.history import History
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from predictor.registry import Role, artifact_directory, artifact_id_of, pointer_path, write_pointer
from predictor.trial import try_artifact
from proxy.app import Headway
from proxy.artifact_watch import ArtifactWatch, PointerFile
from proxy.ranking import Ranking
from training.emulator import EmulatedEngine

SHIPPED = artifact_id_of(DEFAULT_ARTIFACT)
STREAMS = 50


def shipped() -> Ranking:
    """The wheel's ranker."""
    ranking = Ranking()
    assert ranking.load()
    return ranking


async def serving_artifact(headway: Headway) -> str:
    """The artifact that an answer names."""
    got = await ask_raw(headway, post(CHAT, chat()))
    assert got.status == 200
    return got.header("x-headway-artifact") or ""


async def refused(headway: Headway, count: int, outcome: str = "refused") -> None:
    """Wait until so many artifacts have been refused."""
    watch = headway._learning.watches[Role.CHAMPION]
    await eventually(lambda: watch.outcomes[outcome] == count)


async def test_the_published_artifact_serves_the_first_request(
    engine: EmulatedEngine, tmp_path: Path
) -> None:
    """After a restart the champion serves from the start; header, status and log name it by its id."""
    champion = publish(tmp_path, "one")
    async with proxy_before(engine.url, state=tmp_path, estimator=shipped()) as headway:
        assert await serving_artifact(headway) == champion
        assert headway.status().artifact == headway.status().ranker.artifact == champion


async def test_publish_and_rollback_under_fifty_streams(tmp_path: Path) -> None:
    """While 50 streams run, artifacts come and go: every stream is answered whole, by the old or the new one, and
    what was published last serves in the end."""
    seen: Counter[str] = Counter()
    async with (
        engine_of([40], slots=STREAMS) as engine,
        proxy_before(engine.url, state=tmp_path, estimator=shipped()) as headway,
    ):
        stop = asyncio.Event()

        async def stream() -> None:
            while not stop.is_set():
                got = await ask_raw(headway, post(CHAT, chat(stream=True)))
                assert got.status == 200
                assert got.body.rstrip().endswith(b"data: [DONE]")
                seen[got.header("x-headway-artifact") or ""] += 1

        clients = [asyncio.create_task(stream()) for _ in range(STREAMS)]
        one, two = add_artifact(tmp_path, "one"), add_artifact(tmp_path, "two")
        for wanted in (one, two, None):
            write_pointer(tmp_path, Role.CHAMPION, wanted)
            serving = wanted or SHIPPED
            await eventually(lambda: headway.status().artifact == serving)  # noqa: B023
            before = seen[serving]
            await eventually(lambda: seen[serving] > before)  # noqa: B023
        stop.set()
        await asyncio.gather(*clients)
        assert headway.status().outcomes == {"completed": sum(seen.values())}
        assert headway._learning.watches[Role.CHAMPION].outcomes == {
            "loaded": 3,
            "refused": 0,
            "unreadable": 0,
        }
        text = await metrics_text(headway)
    assert set(seen) == {SHIPPED, one, two}
    assert 'headway_artifact_reloads_total{outcome="loaded",role="champion"} 3.0' in text


def half_written(state: Path) -> str:
    """An artifact of which one file is missing."""
    artifact_id = add_artifact(state, "half")
    (artifact_directory(state, artifact_id) / "text_head.npz").unlink()
    return artifact_id


def damaged(state: Path) -> str:
    """An artifact of which one file has other bytes than its metadata says."""
    artifact_id = add_artifact(state, "damaged")
    (artifact_directory(state, artifact_id) / "calibration.json").write_bytes(b"{}")
    return artifact_id


def deadly(state: Path) -> str:
    """An artifact whose hashes are right and whose model is not."""
    return add_artifact(state, "deadly", booster=b"\x1f\x8b" + b"\xff" * 100)


def renamed(state: Path) -> str:
    """A good artifact under another's id."""
    artifact_directory(state, add_artifact(state, "good")).rename(artifact_directory(state, "0" * 16))
    return "0" * 16


def missing(state: Path) -> str:
    """No artifact at all."""
    return "f" * 16


def emptied(state: Path) -> str:
    """An artifact whose metadata was cut off by a full disk."""
    artifact_id = add_artifact(state, "emptied")
    (artifact_directory(state, artifact_id) / METADATA).write_bytes(b'{"name": "defa')
    return artifact_id


@pytest.mark.parametrize("broken", [half_written, damaged, deadly, renamed, missing, emptied])
async def test_a_broken_artifact_changes_nothing(
    engine: EmulatedEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: object
) -> None:
    """One line in the log, one count in the metrics, the champion goes on; the next good one is taken."""
    champion = publish(tmp_path, "champion")
    async with proxy_before(engine.url, state=tmp_path, estimator=shipped()) as headway:
        write_pointer(tmp_path, Role.CHAMPION, broken(tmp_path))  # type: ignore[operator]
        await refused(headway, 1)
        assert await serving_artifact(headway) == champion
        lines = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        assert len(lines) == 1
        assert f"champion stays {champion}" in lines[0]
        assert "\n" not in lines[0]
        better = publish(tmp_path, "better")
        await eventually(lambda: headway.status().artifact == better)
        assert 'outcome="refused",role="champion"} 1.0' in await metrics_text(headway)


@pytest.mark.parametrize("damage", [b"", b"\0" * 40, b"../../etc/passwd", b"cafe"])
async def test_a_corrupted_pointer_changes_nothing(
    engine: EmulatedEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    """What is no artifact id is said once and counted; nothing is loaded."""
    champion = publish(tmp_path, "champion")
    async with proxy_before(engine.url, state=tmp_path, estimator=shipped()) as headway:
        pointer_path(tmp_path, Role.CHAMPION).write_bytes(damage)
        await refused(headway, 1, "unreadable")
        assert await serving_artifact(headway) == champion
        (line,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        assert "is no artifact id" in line


async def test_a_broken_champion_at_the_start_leaves_the_wheels(
    engine: EmulatedEngine, tmp_path: Path
) -> None:
    """The proxy starts with the artifact that comes with it where the published one is broken."""
    write_pointer(tmp_path, Role.CHAMPION, half_written(tmp_path))
    async with proxy_before(engine.url, state=tmp_path, estimator=shipped()) as headway:
        assert await serving_artifact(headway) == SHIPPED


async def test_an_error_that_nobody_expected_refuses_the_artifact_alone(
    engine: EmulatedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever loading raises, at the start or later, the proxy serves with what it has."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a loader's own bug")

    ranking = shipped()
    monkeypatch.setattr("proxy.artifact_watch.LightGBMRanker.load", broken)
    publish(tmp_path, "one")
    async with proxy_before(engine.url, state=tmp_path, estimator=ranking) as headway:
        await refused(headway, 1)
        assert await serving_artifact(headway) == SHIPPED
        publish(tmp_path, "two")
        await refused(headway, 2)
        assert await serving_artifact(headway) == SHIPPED


async def test_a_machine_too_busy_for_a_trial_is_asked_again(
    engine: EmulatedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too slow a child is no fault of the artifact's: a while later it is tried once more, and serves."""
    trials: list[Path] = []

    def slow_at_first(directory: Path, **_: object) -> None:
        trials.append(directory)
        if len(trials) == 1:
            raise TrialUnfinishedError(directory, "its trial took longer than 30 s")

    monkeypatch.setattr("proxy.artifact_watch.try_artifact", slow_at_first)
    monkeypatch.setattr("proxy.artifact_watch._AGAIN_S", 0.01)
    wanted = publish(tmp_path, "one")
    async with proxy_before(engine.url, state=tmp_path, estimator=shipped()) as headway:
        await eventually(lambda: headway.status().artifact == wanted)
    assert len(trials) == 2


async def test_what_was_repaired_is_taken_when_asked(engine: EmulatedEngine, tmp_path: Path) -> None:
    """A refused artifact is not tried over and over; a wake-up (SIGHUP) tries it again."""
    wanted = half_written(tmp_path)
    async with proxy_before(engine.url, state=tmp_path, estimator=shipped()) as headway:
        write_pointer(tmp_path, Role.CHAMPION, wanted)
        await refused(headway, 1)
        whole = (DEFAULT_ARTIFACT / "text_head.npz").read_bytes()
        (artifact_directory(tmp_path, wanted) / "text_head.npz").write_bytes(whole)
        headway.reload(headway.settings)
        await eventually(lambda: headway.status().artifact == wanted)


async def test_what_was_learned_outlives_the_artifact(engine: EmulatedEngine, tmp_path: Path) -> None:
    """The length history is the deployment's, not the artifact's: a new one goes on with it."""
    ranking = shipped()
    async with proxy_before(engine.url, state=tmp_path, estimator=ranking) as headway:
        await serving_artifact(headway)
        await eventually(lambda: len(ranking.history) > 0)
        known = len(ranking.history)
        newer = publish(tmp_path, "newer")
        await eventually(lambda: headway.status().artifact == newer)
        assert len(ranking.history) >= known


async def test_a_stop_does_not_wait_for_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that loads for ever is given up with whoever waits for it, and so is its thread."""
    publish(tmp_path, "endless")
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/tried\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    monkeypatch.setattr("proxy.artifact_watch.try_artifact", partial(try_artifact, patience_s=600.0))
    source = PointerFile(tmp_path, Role.CHAMPION)
    watch = ArtifactWatch(source, role=Role.CHAMPION, state=tmp_path, history=History(), take=lambda _: None)
    following = asyncio.create_task(watch.follow())
    await eventually((tmp_path / "tried").exists)
    following.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait([following])
        await asyncio.get_running_loop().shutdown_default_executor()
