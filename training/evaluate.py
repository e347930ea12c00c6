"""`headway evaluate`: how well an artifact orders rows that it has not seen."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from predictor.artifact import Artifact, load_artifact
from predictor.errors import PredictorError
from training.dataset import Dataset, read_dataset
from training.head_inputs import apply_head
from training.ranking_metrics import bootstrap_interval, kendall_tau_b, pairwise_accuracy
from training.sources import DataError, read_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `headway evaluate`."""
    parser.add_argument("--artifact", type=Path, required=True, metavar="DIR")
    parser.add_argument("--on", required=True, metavar="SRC", help="*.jsonl[.gz], *.parquet, …")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Evaluate and report; 1 and one line on stderr where the data or the artifact is unusable."""
    try:
        report = evaluate(load_artifact(args.artifact), read_dataset(read_source(args.on)))
    except (DataError, PredictorError) as error:
        print(f"headway evaluate: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report) if args.json else "\n".join(f"{key}: {value}" for key, value in report.items()))
    return 0


def evaluate(artifact: Artifact, data: Dataset) -> dict[str, Any]:
    """All figures of one artifact on the held-out rows of `data`."""
    rows = data.select(data.split == "heldout") if (data.split != "").any() else data
    matrix = np.hstack([rows.fixed, apply_head(artifact.head, rows.grams, rows.fixed)])
    score = np.array([artifact.ensemble.score(row) for row in matrix])
    rng = np.random.default_rng(0)
    return {
        "rows": len(rows),
        "rows_censored": int(rows.censored.sum()),
        "kendall_tau_b": kendall_tau_b(rows.label, score),
        "kendall_tau_b_interval": bootstrap_interval(rows.label, score, rows.prompt, rng),
        "pairwise_accuracy": pairwise_accuracy(rows.label, score, rng),
        "by_part": {
            str(part): kendall_tau_b(rows.label[rows.part == part], score[rows.part == part])
            for part in np.unique(rows.part)
        },
    }


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="headway evaluate")
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))
