"""One row per request, numbers only, and whatever happens to the file costs records, never an answer."""

import contextlib
import shutil
import sqlite3
import threading
from pathlib import Path

import msgspec
import pytest
from harness import CHAT, ask_raw, chat, engine_of, eventually, post, proxy_before, raw_client

from predictor.records import RECORD_VERSION, Outcome, TrafficRecord
from predictor.request import RequestBody
from predictor.traffic_store import open_store, read_records
from proxy.ranking import Ranking
from proxy.traffic_log import TrafficLog
from training.emulator import EmulatedEngine

CANARY = "xylophonecanary"


def record(number: int = 0, **fields: object) -> TrafficRecord:
    """A row."""
    return TrafficRecord(f"r{number:06}", number, CHAT, Outcome.COMPLETED, **fields)  # type: ignore[arg-type]


async def written(path: Path, count: int) -> list[TrafficRecord]:
    """The rows once there are so many."""
    found: list[TrafficRecord] = []

    def enough() -> bool:
        found[:] = read_records(path)
        return len(found) >= count

    await eventually(enough)
    return found


@pytest.mark.parametrize("streams", [False, True])
async def test_a_row_says_what_came_of_a_request(
    engine: EmulatedEngine, tmp_path: Path, streams: bool
) -> None:
    """Tokens, time to first token, end to end, wait, prediction: what training needs, streaming or not."""
    async with proxy_before(engine.url, state=tmp_path) as headway:
        got = await ask_raw(headway, post(CHAT, chat(stream=streams, max_tokens=9, model="emulated")))
    (row,) = read_records(tmp_path / "traffic.db")
    assert row.request_id == got.header("x-headway-request-id")
    assert (row.version, row.api, row.outcome, row.status) == (RECORD_VERSION, CHAT, Outcome.COMPLETED, 200)
    assert (row.model, row.stream, row.max_tokens, row.finish_reason) == ("emulated", streams, 9, "stop")
    assert (row.output_tokens, row.predicted_tokens) == (5, 9.0)
    assert row.prompt_tokens
    assert (row.policy, row.mode, row.artifact) == ("quantile", "hybrid", "by-max-tokens")
    assert row.queue_s is not None
    assert row.ttft_s is not None
    assert row.e2e_s is not None
    assert 0 <= row.queue_s <= row.ttft_s <= row.e2e_s < 60


async def test_what_nobody_predicted_has_no_prediction_in_its_row(
    engine: EmulatedEngine, tmp_path: Path
) -> None:
    """Without a ranker all have the same place in the order; that is no prediction to judge or to learn by."""
    async with proxy_before(engine.url, state=tmp_path, estimator=Ranking()) as headway:
        await ask_raw(headway, post(CHAT, chat()))
    (row,) = read_records(tmp_path / "traffic.db")
    assert (row.outcome, row.quantile, row.predicted_tokens) == (Outcome.COMPLETED, None, None)


async def test_no_word_of_a_prompt_is_in_any_file(tmp_path: Path) -> None:
    """Prompts, tools, system turns, keys, user names and answers leave numbers only, whatever the outcome."""
    ranking = Ranking()
    assert ranking.load()
    async with engine_of([5]) as engine:
        async with proxy_before(engine.url, state=tmp_path, estimator=ranking) as headway:
            text = f"Tell me about the {CANARY}."
            tool = {"type": "function", "function": {"name": CANARY, "parameters": {}}}
            system = {"role": "system", "content": text}
            messages = [system, {"role": "user", "content": text, "name": CANARY}]
            bodies = [
                chat(text),
                chat(text, stream=True),
                msgspec.json.encode(
                    {"messages": messages, "tools": [tool], "user": CANARY, "stop": [CANARY]}
                ),
                chat(text, max_tokens=CANARY),
                msgspec.json.encode({CANARY: text}),
                text.encode(),
            ]
            for body in bodies:
                request = post(CHAT, body, f"X-Name: {CANARY}", f"Authorization: Bearer {CANARY}")
                await ask_raw(headway, request)
            async with raw_client(headway) as client:
                await client.send(post(CHAT, chat(text))[:-3])
            await eventually(lambda: sum(headway.status().outcomes.values()) == len(bodies) + 1)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files
    for path in files:
        assert CANARY.encode() not in path.read_bytes(), path
    assert len(list(read_records(tmp_path / "traffic.db"))) == len(bodies) + 1


async def test_rows_are_there_soon(engine: EmulatedEngine, tmp_path: Path) -> None:
    """A steady trickle of requests does not keep rows from being written: a crash costs a second of them."""
    log = TrafficLog(tmp_path / "traffic.db")
    stop = threading.Event()

    def trickle() -> None:
        number = 0
        while not stop.wait(0.1):
            log.put(record(number))
            number += 1

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        await written(tmp_path / "traffic.db", 1)
    finally:
        stop.set()
        thread.join()
        log.close()


def test_what_is_queued_is_written_at_the_end(tmp_path: Path) -> None:
    """`close` writes everything that was handed over."""
    log = TrafficLog(tmp_path / "deep" / "down" / "traffic.db")
    for number in range(5000):
        log.put(record(number))
    log.close()
    rows = list(read_records(tmp_path / "deep" / "down" / "traffic.db"))
    assert [row.arrival_us for row in rows] == list(range(5000))
    assert (log.written, log.dropped) == (5000, 0)


def test_a_log_goes_on_where_the_last_process_ended(tmp_path: Path) -> None:
    """A restart adds to the log that is there."""
    for number in range(3):
        log = TrafficLog(tmp_path / "traffic.db", now_s=lambda: 1.0)
        log.put(record(number))
        log.close()
    assert len(list(read_records(tmp_path / "traffic.db"))) == 3


def test_a_row_that_cannot_be_written_costs_itself_alone(tmp_path: Path) -> None:
    """Values that no column holds are a lost record, counted; those beside them are written."""
    log = TrafficLog(tmp_path / "traffic.db")
    for row in (record(1), record(2, output_tokens=10**30), record(3, tenant="a\udcff"), record(4)):
        log.put(row)
    log.close()
    assert [row.arrival_us for row in read_records(tmp_path / "traffic.db")] == [1, 4]
    assert (log.written, log.dropped) == (2, 2)


def test_fewer_wait_that_hold_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a disk is full what waits for it is bounded in memory too: those with text go sooner."""
    monkeypatch.setattr("proxy.traffic_log._FLUSH_S", 600.0)
    monkeypatch.setattr("proxy.traffic_log._QUEUE_WITH_TEXT", 2)
    log = TrafficLog(tmp_path / "traffic.db")
    for number in range(4):
        log.put(record(number, body=RequestBody(prompt="Hello")))
    log.put(record(4))
    assert log.dropped == 2
    log.close()
    assert [row.arrival_us for row in read_records(tmp_path / "traffic.db")] == [0, 1, 4]


async def test_a_bad_row_does_not_end_the_writing(tmp_path: Path) -> None:
    """After a batch that cannot be written the next one is."""
    log = TrafficLog(tmp_path / "traffic.db")
    log.put(record(1, output_tokens=10**30))
    await eventually(lambda: log.dropped == 1)
    log.put(record(2))
    log.close()
    assert (log.written, log.dropped) == (1, 1)


async def test_a_log_that_is_taken_away_costs_records_not_answers(
    engine: EmulatedEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the file vanishes under way, clients notice nothing; records wait for it, and what is still unwritten
    at the end is counted."""
    async with proxy_before(engine.url, state=tmp_path / "state") as headway:
        assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
        await eventually(lambda: headway.status().traffic_log_written == 1)
        shutil.rmtree(tmp_path / "state")
        (tmp_path / "state").write_text("a file where the directory was")
        for _ in range(3):
            assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
        await eventually(lambda: "cannot be written" in caplog.text)
        assert headway.status().traffic_log_dropped == 0
    assert headway.status().traffic_log_dropped == 3
    assert "3 traffic records are lost" in caplog.text


async def test_a_full_disk_costs_a_line_and_no_record(
    engine: EmulatedEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While SQLite says that the disk is full requests are answered and records wait; one line says so, and once
    there is room again all of them are written."""
    full = threading.Event()

    def narrow(path: Path) -> sqlite3.Connection:
        database = open_store(path)
        if full.is_set():
            (pages,) = database.execute("PRAGMA page_count").fetchone()
            database.execute(f"PRAGMA max_page_count={pages}")
        return database

    monkeypatch.setattr("proxy.traffic_log.open_store", narrow)
    full.set()
    async with proxy_before(engine.url, state=tmp_path) as headway:
        for _ in range(100):
            assert (await ask_raw(headway, post(CHAT, chat()))).status == 200
        await eventually(lambda: "disk is full" in caplog.text)
        full.clear()
        await eventually(lambda: headway.status().traffic_log_written == 100)
        assert headway.status().traffic_log_dropped == 0
    lines = [one.getMessage() for one in caplog.records if one.name == "headway.traffic"]
    assert ["cannot be written" in lines[0], "written again" in lines[1], len(lines)] == [True, True, 2]
    assert len(list(read_records(tmp_path / "traffic.db"))) == 100


def test_a_log_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    """Where no file can be made the operator is told at the start."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        TrafficLog(tmp_path / "file" / "traffic.db")
    (tmp_path / "traffic.db").mkdir()
    with pytest.raises(sqlite3.OperationalError):
        TrafficLog(tmp_path / "traffic.db")


def test_a_queue_that_is_full_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`put` never waits: where the writer cannot keep up, records go and are counted."""
    monkeypatch.setattr("proxy.traffic_log._QUEUE", 10)
    monkeypatch.setattr("proxy.traffic_log.TrafficLog._run", lambda _: None)
    log = TrafficLog(tmp_path / "traffic.db")
    for number in range(25):
        log.put(record(number))
    assert log.dropped == 15


def test_rows_of_another_version_can_be_read(tmp_path: Path) -> None:
    """Fields that came or went between versions neither break the reading nor are made up."""
    path = tmp_path / "traffic.db"
    TrafficLog(path).close()
    old = {"request_id": "old", "arrival_us": 1, "api": CHAT, "outcome": "completed"}
    new = old | {"request_id": "new", "version": 99, "a_field_of_the_future": [1, 2]}
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for row in (old, new):
            blob = msgspec.json.encode(row)
            database.execute(
                "INSERT INTO traffic VALUES (?, 1, 'completed', NULL, ?)", (row["request_id"], blob)
            )
    rows = list(read_records(path))
    assert [(row.request_id, row.version, row.output_tokens) for row in rows] == [
        ("new", 99, None),
        ("old", 1, None),
    ]
