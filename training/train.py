"""`headway train`: from rows with output lengths to an artifact that ranks new requests."""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from predictor.artifact import Metadata, SelfTest, load_artifact, pack_files, save_artifact
from predictor.booster import Booster
from predictor.ensemble import Ensemble
from predictor.errors import PredictorError
from predictor.features.extractor import schema_of
from predictor.features.schema import FloatArray, Schema
from training.dataset import Dataset, read_dataset
from training.fit_head import fit_head
from training.fit_calibration import fit_calibration
from training.fit_ranker import FittedRanker, Voice, fit_ranker
from training.folds import assign_folds
from training.sources import DataError, read_source

FOLDS: Final = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `headway train`."""
    parser.add_argument("--from", dest="source", required=True, metavar="SRC", help="*.jsonl[.gz], *.parquet, …")
    parser.add_argument("--out", type=Path, default=Path("build/artifact"), metavar="DIR", help="artifact to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Train and write the artifact; 1 and one line on stderr where the data or the directory is unusable."""
    try:
        report = train(read_dataset(read_source(args.source)), args.out, source=args.source, seed=args.seed)
    except (DataError, PredictorError) as error:
        print(f"headway train: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report) if args.json else "\n".join(f"{key}: {value}" for key, value in report.items()))
    return 0


def train(data: Dataset, out: Path, *, source: str, seed: int) -> dict[str, Any]:
    """Fit on the training rows of `data` and write the artifact to `out`; returns the report."""
    started = time.monotonic()
    rows = training_rows(data)
    target = rank_target(rows.label)
    rng = np.random.default_rng(seed)
    fold = assign_folds(rows.prompt, FOLDS, rng)
    fitted = fit_head(rows.grams, rows.fixed, target, fold, seed)
    schema = schema_of(fitted.head)
    matrix = np.hstack([rows.fixed, fitted.outputs])
    voices = [Voice("cross_entropy", 0.6), Voice("kernel", 0.4, fitted.head.names[-1])]
    ranker = fit_ranker(matrix, schema.names, target, fold, voices, seed)
    calibration = fit_calibration(ranker.scores, rows.label, rows.censored)
    report = {
        "rows": len(rows),
        "rows_censored": int(rows.censored.sum()),
        "rows_skipped": dict(data.skipped.reasons),
        "seconds": round(time.monotonic() - started, 2),
        "out": str(out),
    }
    metadata = Metadata(
        name=f"{out.name}-{datetime.now(UTC):%Y%m%d%H%M%S}",
        schema_id=schema.id,
        feature_names=list(schema.names),
        members=ranker.members,
        sha256={},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        training={**report, "source": source, "seed": seed},
    )
    expected = expected_score(ranker, schema, matrix[0])
    unproved = pack_files(fitted.head, ranker.models, calibration, SelfTest(_row(matrix[0]), expected))
    save_artifact(out, unproved, metadata)
    load_artifact(out)
    return report


def rank_target(label: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each label's place among all, in (0, 1], ties sharing their mean.

    An order needs nothing else, and the long tail of lengths cannot dominate the fit.
    """
    return np.asarray(stats.rankdata(label) / len(label), dtype=np.float64)


def training_rows(data: Dataset) -> Dataset:
    """Rows whose `split` is train, or, where no row has one, the first 80%."""
    if (data.split != "").any():
        mask = data.split == "train"
    else:
        mask = np.arange(len(data)) < max(1, int(0.8 * len(data)))
    if not mask.any():
        raise DataError("no row has split train")
    return data.select(mask)


def _row(row: np.ndarray[Any, np.dtype[np.float32]]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in row]


def expected_score(ranker: FittedRanker, schema: Schema, row: FloatArray) -> float:
    """What the artifact must answer on its self-test row."""
    boosters = {file: Booster(text, len(schema.names)) for file, text in ranker.models.items()}
    return Ensemble(ranker.members, boosters, schema).score(row)


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="headway train")
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))
