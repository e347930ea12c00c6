"""Rows with lengths that training can learn, and what the tests of its commands share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rankers import asked

from predictor.lightgbm_ranker import LightGBMRanker
from predictor.records import Outcome, TrafficRecord
from predictor.traffic_store import open_store, write_records
from training.dataset import Dataset, read_dataset
from training.progress import show_progress
from training.sources import SourceRow
from training.train import train

Row = dict[str, Any]
# The fixture `run`: a command's exit status, stdout and stderr.
Run = Callable[..., tuple[int, str, str]]
KINDS = (
    ("Answer yes or no: is {} heavy?", 3),
    ("List ten uses of {}.", 120),
    ("Write a long essay about {}.", 600),
)


def rows(count: int, **fields: Any) -> list[Row]:
    """Rows of three kinds whose lengths differ tenfold, and somewhat within a kind."""
    rng = np.random.default_rng(0)
    return [
        {
            "id": str(number),
            "prompt": KINDS[number % 3][0].format(f"metal number {number}"),
            "output_tokens": int(KINDS[number % 3][1] * rng.uniform(0.7, 1.4)) + 1,
            "part": f"kind {number % 3}",
            **fields,
        }
        for number in range(count)
    ]


def write_rows(path: Path, given: list[Row]) -> Path:
    """A lengths file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def data_of(given: list[Row]) -> Dataset:
    """These rows as a data set."""
    return read_dataset(SourceRow(f"row {number}", row) for number, row in enumerate(given))


def trained(given: list[Row], **options: Any) -> tuple[Any, Row]:
    """Train without an artifact to start from, unless `base` names one."""
    with show_progress() as steps:
        base = options.pop("base", None)
        return train(data_of(given), base, objective="cross_entropy", seed=0, steps=steps, **options)


def log_of(path: Path, given: list[Row], drop: int = 0) -> str:
    """A traffic log of these prompts by the shipped ranker, its schema lacking the first `drop` fixed names."""
    ranker = LightGBMRanker.load()
    records, names = [], ranker.artifact.schema.names[drop:]
    for number, row in enumerate(given):
        features = ranker.features(asked(row["prompt"]))[0]
        records.append(
            TrafficRecord(
                f"r{number}", number, "/v1/chat/completions", Outcome.COMPLETED, finish_reason="stop",
                output_tokens=row["output_tokens"], schema="old",
                features=features.values[drop:].astype("<f4").tobytes(),
            )
        )  # fmt: skip
    database = open_store(path)
    write_records(database, records, {"old": names})
    database.close()
    return f"sqlite:///{path}"
