"""Training on a traffic log: its numbers do without any text, and what was lost or is poor in it harms nobody."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logged_traffic import write_log
from rankers import asked
from training_rows import KINDS, Row, Run, log_of, rows, trained

import training.train
from predictor.artifact import load_artifact
from predictor.features.extractor import schema_of
from predictor.features.schema import FloatArray
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.records import Outcome, TrafficRecord
from predictor.traffic_store import open_store, write_records
from training.bundle import write_bundle
from training.train import train


@pytest.mark.parametrize("drop", [0, 7])
def test_a_traffic_log_without_any_text_trains(run: Run, tmp_path: Path, drop: int) -> None:
    """On logged numbers, an older schema's too: what it lacks is absent, the head that wrote it stays."""
    source = log_of(tmp_path / "traffic.db", rows(40), drop)
    status, out, err = run("train", "--from", source, "--out", tmp_path / "art", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["rows"] == 32
    artifact = load_artifact(tmp_path / "art")
    assert artifact.schema == schema_of(load_artifact(DEFAULT_ARTIFACT).head)
    ranker = LightGBMRanker(artifact)
    low, high = (ranker.predict(asked(KINDS[kind][0].format("tin"))).quantile for kind in (0, 2))
    assert low < high


def test_who_was_answered_stands_for_who_was_not(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a traffic log too that is trained on by hand: where many that were predicted long were lost while it was
    written, the others of these weigh more; of the latest rows that were asked for."""
    source = write_log(tmp_path, 200)
    with closing(open_store(tmp_path / "traffic.db")) as database:
        lost = [
            TrafficRecord(f"x{number}", 1_000_000 * number + 1, "chat", Outcome.EXPIRED, quantile=0.95)
            for number in range(200)
        ]
        write_records(database, lost, {})
    given: list[Any] = []

    def note(data: Any, *rest: Any, weight: Any, **others: Any) -> Any:
        given.append((data.training_rows().quantile, weight))
        return train(data, *rest, weight=weight, **others)

    monkeypatch.setattr(training.train, "train", note)
    status, out, _ = run("train", "--from", source, "--rows", 100, "--out", tmp_path / "art", "--json")
    assert (status, json.loads(out)["rows"]) == (0, 80)
    ((quantile, weight),) = given
    assert weight[quantile > 0.9].min() > 1.5 * weight[quantile < 0.9].max()
    assert weight.mean() == pytest.approx(1)


def test_a_log_that_has_grown_is_judged_by_what_is_new(run: Run, tmp_path: Path) -> None:
    """The last fifth of today's log may be what an artifact was trained on, and by any other name it is the same log."""
    source = write_log(tmp_path, 100)
    assert run("train", "--from", source, "--out", tmp_path / "art")[0] == 0
    again = f"sqlite:///{tmp_path}/art/../traffic.db"
    rows = [json.loads(run("evaluate", "--artifact", tmp_path / "art", "--on", again, "--json")[1])["rows"]]
    write_log(tmp_path, 50, since=100)
    rows.append(
        json.loads(run("evaluate", "--artifact", tmp_path / "art", "--on", again, "--json")[1])["rows"]
    )
    assert rows == [20, 70]


def test_a_traffic_log_needs_the_head_that_wrote_it(run: Run, tmp_path: Path) -> None:
    """Without text there is nothing to fit one on: the error names the option to give."""
    source = log_of(tmp_path / "traffic.db", rows(40))
    status, _, err = run("train", "--from", source, "--out", tmp_path / "art", "--base", "none")
    assert status == 1
    assert "--base" in err


def logged_rows(matrix: FloatArray, names: tuple[str, ...]) -> list[Row]:
    """A traffic log of these vectors, whose lengths follow their first column."""
    return [
        {
            "id": f"r{number}", "output_tokens": 10 + number, "truncated": False, "feature_names": names,
            "features": vector.astype("<f4").tobytes(),
        }
        for number, vector in enumerate(matrix)
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["one row", "all absent", "infinities", "huge", "constant", "another head"])
def test_the_poorest_log_gives_an_artifact_that_serves(what: str, tmp_path: Path) -> None:
    """Of a log too: one row, columns that no row has, numbers at the edge of single precision, another head's
    rows among ours, as after every publication: no failure, no warning, and predictions in range."""
    artifact = load_artifact(DEFAULT_ARTIFACT)
    names, rng = artifact.schema.names, np.random.default_rng(0)
    matrix = rng.normal(size=(30, len(names))).astype(np.float32)
    if what == "one row":
        matrix = matrix[:1]
    elif what == "all absent":
        matrix[:] = np.nan
    elif what == "infinities":
        matrix[rng.random(matrix.shape) < 0.1] = np.inf
    elif what == "huge":
        matrix = rng.choice(np.array([3e38, -3e38, 0, 1], dtype=np.float32), size=matrix.shape)
    elif what == "constant":
        matrix[:] = 1
    elif what == "another head":
        matrix[::2, -len(artifact.head.names) :] = np.nan
    bundle, report = trained(logged_rows(matrix, names), base=artifact.head)
    write_bundle(bundle, tmp_path / "art", report)
    ranker = LightGBMRanker.load(tmp_path / "art")
    one = ranker.predict(asked("Hello"))
    assert 0 <= one.quantile <= 1
    assert 10 <= one.p10_tokens <= one.p90_tokens <= 40
