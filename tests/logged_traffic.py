"""A traffic log with something to learn in it, and artifacts that differ in nothing but their names."""

import json
import shutil
from pathlib import Path

import numpy as np

from predictor.artifact import METADATA
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.records import Outcome, TrafficRecord
from predictor.redis_address import RedisAddress
from predictor.registry import artifact_id_of
from predictor.traffic_store import open_store, read_records, read_schemas, write_records
from proxy.shared.link import Link
from proxy.shared.traffic import StreamLog

TOKEN_S = 0.01


def write_log(state: Path, rows: int, *, length: int | None = None, seed: int = 3, since: int = 0) -> str:
    """`rows` answers whose length follows one feature and some noise; or all of one `length`. Gives the SRC."""
    schema = LightGBMRanker.load().artifact.schema
    rng = np.random.default_rng(seed)
    hint = rng.random(rows)
    told = np.exp(1 + 5 * hint + 0.3 * rng.standard_normal(rows)).astype(int) + 1
    column = schema.names.index("size.system")
    records = []
    for number in range(rows):
        values = np.full(len(schema.names), np.nan, dtype="<f4")
        values[column] = hint[number] * 8
        tokens = length or int(told[number])
        records.append(
            TrafficRecord(
                f"r{since + number:06}", 1_000_000 * (since + number), "chat", Outcome.COMPLETED, stream=True,
                replica="one", quantile=float(rng.random()), predicted_tokens=100.0, prompt_tokens=40,
                output_tokens=tokens, finish_reason="stop", queue_s=0.0, ttft_s=0.1,
                e2e_s=0.1 + TOKEN_S * (tokens - 1), schema=schema.id, features=values.tobytes(),
            )
        )  # fmt: skip
    path = state / "traffic.db"
    database = open_store(path)
    write_records(database, records, {schema.id: schema.names})
    database.close()
    return f"sqlite:///{path}"


async def stream_log(address: RedisAddress, folder: Path, rows: int) -> None:
    """The same rows, as proxies would have streamed them."""
    write_log(folder / "origin", rows)
    path = folder / "origin" / "traffic.db"
    names = {key: json.dumps(value) for key, value in read_schemas(path).items()}
    link = Link(address)
    log = StreamLog(link, "p", keep_rows=100_000)
    for record in read_records(path):
        log.put(record)
    await log.close()
    await link.client.hset("headway:schemas", mapping=names)
    await link.close()


def artifact_called(name: str, parent: Path) -> Path:
    """A copy of the shipped artifact under another name, and therefore with another id."""
    home = parent / name
    shutil.copytree(DEFAULT_ARTIFACT, home)
    metadata = json.loads((home / METADATA).read_text())
    (home / METADATA).write_text(json.dumps(metadata | {"name": name}))
    return home


def id_called(name: str, parent: Path) -> str:
    """The id of such a copy."""
    return artifact_id_of(artifact_called(name, parent))
