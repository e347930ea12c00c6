"""`headway train`: from rows with output lengths to an artifact that ranks new requests."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from predictor.artifact import load_artifact
from predictor.errors import PredictorError
from predictor.features.extractor import schema_of, set_history
from predictor.features.schema import FloatArray
from predictor.features.view import read_view
from predictor.history import history_key
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from predictor.records import TrafficRecord
from predictor.text_head import TextHead
from training.bundle import Bundle, write_bundle
from training.completion import completion_weights
from training.dataset import Dataset, pick_columns, read_dataset
from training.fit_calibration import fit_calibration
from training.fit_head import FittedHead, fit_head
from training.fit_ranker import OBJECTIVES, SMOOTH, Rows, Voice, fit_ranker
from training.folds import assign_folds
from training.progress import Steps, show_progress
from training.simulate_tenants import assign_tenants, replay_history, simulate_arrivals, simulate_repeats
from training.sources import LATEST_ANSWERS, DataError, fingerprint, read_source, shown

FOLDS: Final = 5
# Fewer teach no order that holds elsewhere; `retrain` has a minimum of its own.
_FEWEST_ROWS: Final = 20
# How much the head's own regression says beside LightGBM, chosen by cross-validation: less is worse on hundreds
# of rows, more is worse on thousands.
_KERNEL_WEIGHT: Final = 0.5
# On a traffic log without text the smooth voice weighs 1 and LightGBM n / (n + this): on hundreds of rows it adds
# nothing, on thousands they are worth the same. Tau-b by cross-validation on the training half of our own prompts
# (377 rows, the wheel's head): LightGBM and the wheel's kernel 0.370, smooth 0.402; of Llama 70B's public lengths
# LightGBM alone 0.489, 0.510, 0.524 on 300, 1,000 and 2,300 rows, both 0.494, 0.517, 0.530.
_EQUAL_ROWS: Final = 500
# The voice that hears what the model says of itself has its own kernel, fitted on the rows where it was asked: with
# 10%, 30%, 60% and all of our own 0.422, 0.442, 0.474, 0.504 where LightGBM alone had 0.372, 0.405, 0.431, 0.446.
# The more rows it knows the less the voice of the text adds to it.
_SIGNALS: Final = "self.entropy"
_OWN_WORTH: Final = 1.2
# Of the target, chosen by cross-validation on training rows (8B and 70B of the public benchmark): by place alone an
# order reaches less of an oracle's gain (`training.regret`; 0.68, 0.63 where half of each reached 0.74, 0.67). Of a
# quarter and a half the first has the better tau-b, 0.503, 0.535 against 0.494, 0.532, and as much of the gain, 0.759,
# 0.647 against 0.765, 0.651.
_SIZE_PART: Final = 0.25
_LONG_PERCENTILE: Final = 99
_DoubleArray = npt.NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `headway train`."""
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="SRC",
        help="*.jsonl[.gz], *.parquet, sqlite:///, redis://",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/artifact"), metavar="DIR", help="artifact to write"
    )
    parser.add_argument(
        "--base", default=str(DEFAULT_ARTIFACT), metavar="DIR|none",
        help="artifact whose prior columns to start from (default: the one that ships with Headway)",
    )  # fmt: skip
    parser.add_argument(
        "--objective", default="cross_entropy", choices=OBJECTIVES,
        help="LightGBM's objective (default cross_entropy)",
    )  # fmt: skip
    parser.add_argument(
        "--rows", type=_count, default=LATEST_ANSWERS, metavar="N",
        help=f"of a traffic log, the latest answers to learn from (default {LATEST_ANSWERS})",
    )  # fmt: skip
    parser.add_argument("--seed", type=_seed, default=0, help="seed of everything random (default 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def _seed(text: str) -> int:
    """What every generator in use takes."""
    if not (text.isdecimal() and int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 2147483647")
    return int(text)


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Train and write the artifact; 1 and one line on stderr where the data or the directory is unusable."""
    started = time.monotonic()
    try:
        with show_progress() as steps:
            data, weight = _read(args, steps)
            _refuse_too_little(data)
            base = None if args.base == "none" else load_artifact(Path(args.base)).head
            bundle, report = train(
                data, base, objective=args.objective, seed=args.seed, steps=steps, weight=weight
            )
        report |= {"source": shown(args.source), "fingerprint": fingerprint(args.source)}
        report |= {"seconds": round(time.monotonic() - started, 2)}
        write_bundle(bundle, args.out, report)
    except DataError as error:
        print(f"headway train: {error.of(args.source)}", file=sys.stderr)
        return 1
    except PredictorError as error:
        print(f"headway train: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"headway train: cannot write {args.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    report["out"] = str(args.out)
    print(json.dumps(report) if args.json else "\n".join(f"{key}: {value}" for key, value in report.items()))
    return 0


def _read(args: argparse.Namespace, steps: Steps) -> tuple[Dataset, _DoubleArray]:
    """The rows, and a weight for each of those to train on: in a log, who was answered stands for who was not."""
    lost: list[tuple[int, float]] = []

    def note(one: TrafficRecord) -> None:
        if one.quantile is not None:
            lost.append((one.arrival_us, one.quantile))

    data = read_dataset(read_source(args.source, args.rows, note), steps.stage("reading rows"))
    rows = data.training_rows()
    first_us, last_us = rows.arrival_us.min(), rows.arrival_us.max()
    gone = [quantile for at_us, quantile in lost if first_us <= at_us <= last_us]
    return data, completion_weights(rows.quantile, np.array(gone))


def _refuse_too_little(data: Dataset) -> None:
    """Raise DataError where no order can be learned: an artifact that was taught nothing would look like any other."""
    label = data.training_rows().label
    if len(label) < _FEWEST_ROWS:
        raise DataError(
            f"rows to train on: {len(label)} of {len(data)} usable ones; at least {_FEWEST_ROWS} are needed"
        )
    if label.min() == label.max():
        raise DataError(
            f"all {len(label)} rows to train on have the same length, {label[0]:.0f} tokens: there is no order to learn"
        )


def train(
    data: Dataset,
    base: TextHead | None,
    *,
    objective: str,
    seed: int,
    steps: Steps,
    weight: _DoubleArray | None = None,
) -> tuple[Bundle, dict[str, Any]]:
    """Fit on the training rows of `data`; `base` lends prior columns to text, and its whole head to rows without.

    `weight` is one number per row.
    """
    rows = data.training_rows()
    target = order_target(rows.label)
    fold = assign_folds(rows.prompt, FOLDS, np.random.default_rng(seed))
    advance = steps.stage("fitting", total=3)
    kept = rows.logged is not None and not rows.has_text
    if kept:
        fitted = _logged_head(rows, base)
    else:
        fitted = fit_head(rows.grams, rows.fixed, target, fold, seed, prompt=rows.prompt, base=base)
    advance()
    names = schema_of(fitted.head).names
    known = _with_histories(rows, np.hstack([rows.fixed, fitted.outputs]), seed)
    copies = len(known) // len(rows)
    weights = np.ones(len(rows)) if weight is None else weight
    table = Rows(known, np.tile(target, copies), np.tile(fold, copies), np.tile(weights, copies))
    ranker = fit_ranker(table, names, voices_for(table, names, objective, fitted=not kept), seed, advance)
    calibration = fit_calibration(ranker.scores, np.tile(rows.label, copies), np.tile(rows.censored, copies))
    report = {
        "rows": len(rows),
        "rows_censored": int(rows.censored.sum()),
        "rows_skipped": dict(data.skipped),
        "head": "kept" if kept else "fitted",
        "objective": objective,
        "seed": seed,
        "base": None if base is None else schema_of(base).id,
    }
    if rows.logged is not None:
        # Of the same log, what came later is new to this artifact.
        report["trained_until_us"] = int(rows.arrival_us.max())
    return Bundle(fitted.head, ranker, calibration, known[0]), report


def order_target(label: _DoubleArray) -> _DoubleArray:
    """What a score should go by, in [0, 1]: three quarters each label's place among all (ties share their mean), one
    its size as a part of the 99th percentile, at most 1.

    The mean wait is least when those go last that are *expected* to take longest. By place alone an answer that is
    a little longer is as bad as one that runs on to the cap; by size alone short ones are not told apart.
    """
    place = stats.rankdata(label) / len(label)
    size = np.minimum(1.0, label / max(1.0, float(np.percentile(label, _LONG_PERCENTILE))))
    return np.asarray((1 - _SIZE_PART) * place + _SIZE_PART * size, dtype=np.float64)


def voices_for(rows: Rows, names: tuple[str, ...], objective: str, *, fitted: bool) -> list[Voice]:
    """LightGBM beside the head's own regression where the head was `fitted` on these rows, else beside a smooth
    voice of the rows; and one more for what the model says of itself, where it was asked."""
    count = len(rows.target)
    if fitted:
        own = [Voice("kernel", _KERNEL_WEIGHT, name) for name in names if name.endswith(".kernel")]
        voices = [Voice(objective, 1.0), *own]
    else:
        voices = [Voice(objective, count / (count + _EQUAL_ROWS)), Voice(SMOOTH, 1.0)]
    told = float((~np.isnan(rows.matrix[:, names.index(_SIGNALS)])).mean())
    return [*voices, Voice(SMOOTH, 1 / (_OWN_WORTH - told), needs=_SIGNALS)] if told else voices


def _logged_head(rows: Dataset, base: TextHead | None) -> FittedHead:
    """The head that wrote a traffic log, and its logged outputs: without n-grams there is nothing to fit one on."""
    if base is None or rows.logged is None:
        raise DataError(
            "a traffic log holds no text to fit a head on; name the artifact that wrote it with --base"
        )
    return FittedHead(base, pick_columns(rows.logged, rows.names, base.names))


def _with_histories(rows: Dataset, matrix: FloatArray, seed: int) -> FloatArray:
    """The rows once without history and, where it is not logged, once more with a simulated one below."""
    if rows.logged is not None:
        return matrix
    rng = np.random.default_rng(seed)
    tenants = assign_tenants(rows.part, rows.label, rng)
    keys = [history_key(t, body.model, read_view(body)) for t, body in zip(tenants, rows.bodies, strict=True)]
    arrivals = simulate_arrivals(rng.permutation(len(rows)), rows.label, rng)
    known = matrix.copy()
    repeats = simulate_repeats(rows.label, rows.censored, arrivals, rng)
    set_history(known, replay_history(keys, rows.label, rows.censored, arrivals, repeats))
    return np.vstack([matrix, known])


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="headway train")
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))
