"""Rows with lengths that training can learn, and what the tests of its commands share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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
        return train(
            data_of(given),
            options.pop("base", None),
            objective="cross_entropy",
            seed=0,
            steps=steps,
            **options,
        )
