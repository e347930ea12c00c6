"""What was learned of lengths survives a restart, and no state of the disk costs an answer."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from harness import CHAT, ask_raw, chat, post, proxy_before
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from predictor.history import History, HistoryKey, LengthStats
from predictor.history_store import load_history, pack, save_history
from proxy.history_file import HistoryFile, remember
from proxy.ranking import Ranking
from proxy.settings import Settings
from training.emulator import EmulatedEngine

observations = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 9000), st.floats(0, 1e9)), min_size=1, max_size=30
)


def key(number: int) -> HistoryKey:
    """Keys that share the levels of tenant and model."""
    return HistoryKey((f"p{number}", f"s{number % 2}", f"o{number}", "t", "m"))


def learned(history: History, count: int) -> None:
    """So many answers of different prompts."""
    for number in range(count):
        history.observe(key(number), 10 * number, float(number))


@profile(max_examples=25)
@given(observations, st.integers(1, 5))
def test_what_was_saved_in_pieces_is_read_as_one(
    tmp_path_factory: pytest.TempPathFactory, seen: list[tuple[int, int, float]], every: int
) -> None:
    """However often it was written on the way, every feature is the same after a restart."""
    path = tmp_path_factory.mktemp("state") / "history.db"
    before, after = History(), History()
    for number, (who, tokens, at_s) in enumerate(seen):
        before.observe(key(who), tokens, at_s)
        if number % every == 0:
            save_history(path, pack(before.drain_updates()), keep=1000)
    save_history(path, pack(before.drain_updates()), keep=1000)
    after.restore(load_history(path))
    for who, *_ in seen:
        np.testing.assert_array_equal(before.features(key(who)), after.features(key(who)))


def test_packed_statistics_are_a_copy() -> None:
    """The history goes on learning while another thread writes."""
    history = History()
    history.observe(key(1), 10, 1.0)
    (row, *_) = [one for one in pack(history.drain_updates()) if one.key == "p1"]
    history.observe(key(1), 5000, 2.0)
    assert msgspec.msgpack.decode(row.stats, type=LengthStats).count == 1
    assert row.finished_at_s == 1.0


def test_the_file_is_bounded_and_forgets_the_oldest(tmp_path: Path) -> None:
    """As many keys as a history holds; read back, those that finished last are the last to be dropped."""
    path = tmp_path / "history.db"
    history = History()
    learned(history, 100)
    save_history(path, pack(history.drain_updates()), keep=20)
    rows = load_history(path)
    assert len(rows) == 20
    assert min(stats.finished_at_s for _, stats in rows) >= 90
    small = History(max_keys=6)
    small.restore(rows)
    assert small.features(key(99))[0] > 0


def test_without_a_file_there_is_no_history_and_none_is_made(tmp_path: Path) -> None:
    """A first start."""
    assert load_history(tmp_path / "state" / "history.db") == []
    assert not (tmp_path / "state").exists()


def test_one_damaged_row_costs_one_key(tmp_path: Path) -> None:
    """The others are read."""
    path = tmp_path / "history.db"
    history = History()
    learned(history, 3)
    save_history(path, pack(history.drain_updates()), keep=100)
    whole = len(load_history(path))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE history SET stats = x'c1' WHERE key = 'p1'")
    assert len(load_history(path)) == whole - 1


def test_another_versions_statistics_are_forgotten(tmp_path: Path) -> None:
    """Keys that meant something else are not taken for today's."""
    path = tmp_path / "history.db"
    history = History()
    learned(history, 3)
    save_history(path, pack(history.drain_updates()), keep=100)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA user_version=99")
    assert load_history(path) == []
    learned(history, 2)
    save_history(path, pack(history.drain_updates()), keep=100)
    assert load_history(path)


async def test_a_proxy_remembers_what_its_predecessor_learned(tmp_path: Path) -> None:
    """Saved while it runs and read at the next start; nothing new is not written again."""
    path = tmp_path / "state" / "history.db"
    before, after = History(), History()
    first = HistoryFile(path, before)
    await first.load()
    learned(before, 5)
    await first.save()
    written = path.stat().st_mtime_ns
    await first.save()
    assert path.stat().st_mtime_ns == written
    await HistoryFile(path, after).load()
    np.testing.assert_array_equal(before.features(key(3)), after.features(key(3)))


async def test_what_could_not_be_written_is_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A state directory that is not there yet, or a full disk: one line, and nothing is lost meanwhile."""
    state = tmp_path / "state"
    state.write_text("in the way")
    history, after = History(), History()
    file = HistoryFile(state / "history.db", history)
    with caplog.at_level(logging.ERROR):
        for number in range(3):
            history.observe(key(number), 10, float(number))
            await file.save()
    assert len(caplog.records) == 1
    state.unlink()
    await file.save()
    await HistoryFile(state / "history.db", after).load()
    assert len(after) == len(history)


@pytest.mark.parametrize("content", [b"no database, but something of some length" * 99, bytes(4096)])
async def test_a_damaged_file_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """The proxy starts, says so, and begins a new history that it can save."""
    path = tmp_path / "history.db"
    path.write_bytes(content)
    history = History()
    file = HistoryFile(path, history)
    with caplog.at_level(logging.ERROR):
        await file.load()
    assert "moved to" in caplog.text
    assert (tmp_path / "history.db.broken").read_bytes() == content
    learned(history, 3)
    await file.save()
    assert len(load_history(path)) == len(history)


async def test_serving_remembers_over_a_restart(engine: EmulatedEngine, tmp_path: Path) -> None:
    """What the first proxy's answers taught, the second one knows before its first request; no text is kept."""
    keys = []
    for _ in range(2):
        ranking = Ranking()
        assert ranking.load()
        async with proxy_before(engine.url, state=tmp_path, estimator=ranking) as headway:
            keys.append(len(ranking.history))
            assert (await ask_raw(headway, post(CHAT, chat("canary")))).status == 200
    assert keys[0] == 0 < keys[1]
    assert b"canary" not in b"".join(one.read_bytes() for one in tmp_path.glob("history.db*"))


async def test_a_proxy_that_writes_no_log_writes_no_history(engine: EmulatedEngine, tmp_path: Path) -> None:
    """Who wants nothing on disk gets nothing on disk."""
    ranking = Ranking()
    assert ranking.load()
    async with proxy_before(engine.url, estimator=ranking) as headway:
        assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
    assert not list(tmp_path.iterdir())


async def test_a_proxy_that_asks_redis_keeps_no_file(tmp_path: Path) -> None:
    """It is told there what all proxies learned, itself included: a file beside it would count that twice."""
    for redis, kept in ((None, True), ("redis://127.0.0.1:1/0", False)):
        settings = Settings(engine=("http://127.0.0.1:1",), state=str(tmp_path), redis=redis)
        assert (await remember(settings, History()) is not None) == kept
