"""`headway evaluate`: how well an artifact orders rows that it has not seen."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from predictor.artifact import Artifact, load_artifact
from predictor.errors import PredictorError
from predictor.features.extractor import FIXED_NAMES, set_history
from predictor.features.schema import FloatArray
from predictor.features.view import read_view
from predictor.history import history_key
from training.dataset import Dataset, pick_columns, read_dataset
from training.head_inputs import apply_head
from training.latency import measure
from training.progress import show_progress
from training.ranking_metrics import bootstrap_interval, kendall_tau_b, pairwise_accuracy
from training.regret import share_of_oracle_gain
from training.simulate_tenants import assign_tenants, replay_history, simulate_arrivals
from training.sources import DataError, SourceRow, fingerprint, read_source

_MIN_ROWS_APART: Final = 10
_SEED: Final = 0
_DoubleArray = npt.NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `headway evaluate`."""
    parser.add_argument(
        "--artifact",
        type=Path,
        required=True,
        metavar="DIR",
        help="the artifact, as `headway train` writes it",
    )
    parser.add_argument(
        "--on", required=True, metavar="SRC", help="*.jsonl[.gz], *.parquet, sqlite:///, redis://"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Evaluate and report; 1 and one line on stderr where the data or the artifact is unusable."""
    try:
        artifact = load_artifact(args.artifact)
        with show_progress() as steps:
            known = artifact.metadata.training.get("fingerprint") == fingerprint(args.on)
            until_us = artifact.metadata.training.get("trained_until_us") if known else None
            data = read_dataset(_later(read_source(args.on), until_us), steps.stage("reading rows"))
        report = evaluate(artifact, data, trained_on_this=known and until_us is None)
    except DataError as error:
        print(f"headway evaluate: {error.of(args.on)}", file=sys.stderr)
        return 1
    except PredictorError as error:
        print(f"headway evaluate: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report) if args.json else "\n".join(f"{key}: {value}" for key, value in report.items()))
    return 0


def _later(rows: Iterator[SourceRow], until_us: int | None) -> Iterator[SourceRow]:
    """Of a log that was trained on up to a time: what came after it. Raises DataError where that is nothing."""
    later = 0
    for one in rows:
        if until_us is None or one.row.get("arrival_us", 0) > until_us:
            later += 1
            yield one
    if until_us is not None and not later:
        raise DataError("no answer in this log is later than what the artifact was trained on")


def evaluate(artifact: Artifact, data: Dataset, *, trained_on_this: bool = False) -> dict[str, Any]:
    """All figures of one artifact on the held-out rows of `data`, from text alone where these have text."""
    rows = data.heldout_rows(trained_on_this=trained_on_this)
    matrix = vectors(artifact, rows)
    score = score_rows(artifact, matrix)
    rng = np.random.default_rng(_SEED)
    return {
        "artifact": artifact.metadata.name,
        "rows": len(rows),
        "rows_censored": int(rows.censored.sum()),
        "rows_skipped": dict(data.skipped),
        "kendall_tau_b": kendall_tau_b(rows.label, score),
        "kendall_tau_b_interval": bootstrap_interval(rows.label, score, rows.prompt, rng),
        "pairwise_accuracy": pairwise_accuracy(rows.label, score, rng),
        "prompt_length_tau_b": kendall_tau_b(rows.label, _prompt_size(rows)),
        "regret": share_of_oracle_gain(rows.label, score),
        "by_part": _apart(rows.part, artifact, rows, score),
        "by_model": _apart(rows.model, artifact, rows, score),
        **_calibration(artifact, rows.label, rows.censored, score),
        **_with_history(artifact, data, rows, matrix),
        **measure(artifact, rows.bodies),
    }


def vectors(artifact: Artifact, rows: Dataset) -> FloatArray:
    """The artifact's feature vectors (n, features) of the rows."""
    if rows.logged is not None and not rows.has_text:
        return pick_columns(rows.logged, rows.names, artifact.schema.names)
    return np.hstack([rows.fixed, apply_head(artifact.head, rows.grams, rows.fixed)])


def score_rows(artifact: Artifact, matrix: FloatArray) -> _DoubleArray:
    """The ensemble's score of each row, by the very code that serves."""
    return np.array([artifact.ensemble.score(row) for row in matrix])


def _prompt_size(rows: Dataset) -> _DoubleArray:
    return rows.fixed[:, FIXED_NAMES.index("size.total")].astype(np.float64)


def _apart(
    group: npt.NDArray[np.str_], artifact: Artifact, rows: Dataset, score: _DoubleArray
) -> dict[str, Any]:
    """Order and calibration within each group that has enough rows to tell."""
    names, counts = np.unique(group, return_counts=True)
    return {
        str(name): {
            "rows": int(count),
            "kendall_tau_b": kendall_tau_b(rows.label[one], score[one]),
            **_calibration(artifact, rows.label[one], rows.censored[one], score[one]),
        }
        for name, count in zip(names, counts, strict=True)
        if count >= _MIN_ROWS_APART
        for one in [group == name]
    }


def _calibration(
    artifact: Artifact, label: _DoubleArray, censored: npt.NDArray[np.bool_], score: _DoubleArray
) -> dict[str, float | None]:
    """How the stated tokens and spread compare with the answers that ended by themselves."""
    kept = ~censored
    if not kept.any():
        return {"expected_over_actual": None, "interval_coverage_80": None}
    stated = [artifact.calibration.predict(value) for value in score[kept]]
    actual = label[kept]
    inside = [p.p10_tokens <= value <= p.p90_tokens for p, value in zip(stated, actual, strict=True)]
    total = float(actual.sum())
    return {
        "expected_over_actual": sum(p.tokens for p in stated) / total if total else None,
        "interval_coverage_80": float(np.mean(inside)),
    }


def _with_history(artifact: Artifact, data: Dataset, rows: Dataset, matrix: FloatArray) -> dict[str, Any]:
    """The same rows again with the history of simulated tenants, who sent the training rows before."""
    if rows.logged is not None:
        return {}
    earlier = data.select(data.split == "train")
    label = np.concatenate([earlier.label, rows.label])
    rng = np.random.default_rng(_SEED)
    bodies = [*earlier.bodies, *rows.bodies]
    tenants = assign_tenants(np.concatenate([earlier.part, rows.part]), label, rng)
    keys = [history_key(t, body.model, read_view(body)) for t, body in zip(tenants, bodies, strict=True)]
    order = np.concatenate([rng.permutation(len(earlier)), len(earlier) + rng.permutation(len(rows))])
    censored = np.concatenate([earlier.censored, rows.censored])
    history = replay_history(keys, label, censored, simulate_arrivals(order, label, rng))
    known = matrix.copy()
    set_history(known, history[len(earlier) :])
    score = score_rows(artifact, known)
    return {
        "history_kendall_tau_b": kendall_tau_b(rows.label, score),
        "history_kendall_tau_b_interval": bootstrap_interval(rows.label, score, rows.prompt, rng),
    }


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="headway evaluate")
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))
