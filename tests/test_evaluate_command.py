"""`headway evaluate`: every figure that is promised, of held-out rows alone, in one JSON document."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rankers import asked, change_metadata, copied
from training_rows import Row, Run, data_of, log_of, write_rows

from predictor.artifact import load_artifact
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from training.evaluate import evaluate, score_rows, vectors
from training.latency import measure
from training.ranking_metrics import kendall_tau_b
from training.sources import fingerprint

ARTIFACT = load_artifact(DEFAULT_ARTIFACT)
PROMISED = {
    "rows": int,
    "rows_censored": int,
    "kendall_tau_b": float,
    "kendall_tau_b_interval": list,
    "pairwise_accuracy": float,
    "prompt_length_tau_b": float,
    "regret": float,
    "by_part": dict,
    "by_model": dict,
    "expected_over_actual": float,
    "interval_coverage_80": float,
    "features_us_p50": float,
    "features_us_p99": float,
    "rank_us_p50": float,
    "rank_us_p99": float,
}
FORMS = (
    ("Answer yes or no: is {} heavy?", 3),
    ("List ten uses of {}.", 150),
    ("Write a long essay about {}.", 700),
)


def rows(count: int, **fields: Any) -> list[Row]:
    """Rows of three kinds, by two models."""
    return [
        {
            "id": str(number),
            "prompt": FORMS[number % 3][0].format(f"metal {number}"),
            "output_tokens": FORMS[number % 3][1] + number,
            "part": f"kind {number % 3}",
            "model": f"model {number % 2}",
            **fields,
        }
        for number in range(count)
    ]


def strict(text: str) -> Any:
    """One JSON document, without the NaN that Python would let through."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_every_promised_figure_is_printed(run: Run, tmp_path: Path) -> None:
    """One document on stdout, with each key and its kind of value; figures lie where they can lie."""
    path = write_rows(tmp_path / "a.jsonl", [*rows(60), {"prompt": "x"}, *rows(3, id=None, truncated=True)])
    status, out, err = run("evaluate", "--artifact", DEFAULT_ARTIFACT, "--on", path, "--json")
    assert (status, err) == (0, "")
    report = strict(out)
    for key, kind in PROMISED.items():
        assert isinstance(report[key], kind), key
    assert (report["rows"], report["rows_censored"]) == (63, 3)
    assert report["rows_skipped"] == {"no output_tokens": 1}
    low, high = report["kendall_tau_b_interval"]
    assert -1 <= low <= report["kendall_tau_b"] <= high <= 1
    assert 0 <= report["pairwise_accuracy"] <= 1
    assert 0 <= report["interval_coverage_80"] <= 1
    # Shortest first is not the best of all orders for several servers, so a ranker can be lucky.
    assert report["regret"] <= 1.1
    assert 0 < report["features_us_p50"] <= report["features_us_p99"]
    assert 0 < report["rank_us_p50"] <= report["rank_us_p99"]
    assert set(report["by_part"]) == {"kind 0", "kind 1", "kind 2"}
    assert set(report["by_model"]) == {"model 0", "model 1"}
    assert all(set(group) >= {"rows", "kendall_tau_b"} for group in report["by_part"].values())


def test_every_key_is_there_where_a_figure_cannot_be(run: Run, tmp_path: Path) -> None:
    """One row, one length, every answer cut, or a log without text: null stands for what nobody can know."""
    cases = {
        "one row": rows(1),
        "one length": [{**row, "output_tokens": 5} for row in rows(20)],
        "no length": [{**row, "output_tokens": 0} for row in rows(20)],
        "all cut": rows(20, truncated=True),
    }
    reports = {}
    for what, given in cases.items():
        path = write_rows(tmp_path / "a.jsonl", given)
        status, out, err = run("evaluate", "--artifact", DEFAULT_ARTIFACT, "--on", path, "--json")
        assert (status, err) == (0, ""), what
        reports[what] = strict(out)
    source = log_of(tmp_path / "t.db", rows(30))
    status, out, _ = run("evaluate", "--artifact", DEFAULT_ARTIFACT, "--on", source, "--json")
    reports["a log"] = strict(out)
    for what, report in reports.items():
        assert set(PROMISED) <= set(report), what
    assert reports["one length"]["regret"] is None
    assert reports["all cut"]["expected_over_actual"] is None
    assert reports["all cut"]["interval_coverage_80"] is None
    assert reports["no length"]["expected_over_actual"] is None
    assert reports["a log"]["features_us_p50"] is None


def test_a_log_is_evaluated_on_what_serving_saw(run: Run, tmp_path: Path) -> None:
    """Its logged vectors are scored as they were: the same order as serving predicted."""
    source = log_of(tmp_path / "t.db", rows(30))
    status, out, _ = run("evaluate", "--artifact", DEFAULT_ARTIFACT, "--on", source, "--json")
    ranker = LightGBMRanker(ARTIFACT)
    scores = [ARTIFACT.ensemble.score(ranker.features(asked(row["prompt"]))[0].values) for row in rows(30)]
    label = np.array([float(row["output_tokens"]) for row in rows(30)])
    assert status == 0
    assert strict(out)["kendall_tau_b"] == pytest.approx(kendall_tau_b(label, np.array(scores)))


def test_only_held_out_rows_are_judged() -> None:
    """A ranker that knows the training rows by heart shows nothing by ordering them."""
    held, other = rows(24, split="heldout"), rows(24, split="train")
    for number, row in enumerate(other):
        row |= {"id": f"t{number}", "output_tokens": 1 + number % 5, "prompt": "Write an essay, please."}
    alone = evaluate(ARTIFACT, data_of(held))
    among = evaluate(ARTIFACT, data_of([*other, *held]))
    for key in ("rows", "kendall_tau_b", "kendall_tau_b_interval", "pairwise_accuracy", "regret", "by_part"):
        assert among[key] == alone[key], key


def test_without_a_split_a_source_that_was_trained_on_is_judged_by_its_last_fifth(
    run: Run, tmp_path: Path
) -> None:
    """The artifact remembers its source's fingerprint; of any other source all rows are new."""
    path = write_rows(tmp_path / "a.jsonl", rows(40))
    directory = copied(tmp_path / "art")
    assert strict(run("evaluate", "--artifact", directory, "--on", path, "--json")[1])["rows"] == 40
    change_metadata(directory, training={"fingerprint": fingerprint(str(path))})
    assert strict(run("evaluate", "--artifact", directory, "--on", path, "--json")[1])["rows"] == 8
    other = write_rows(tmp_path / "b.jsonl", rows(41))
    assert strict(run("evaluate", "--artifact", directory, "--on", other, "--json")[1])["rows"] == 41


def test_the_figures_are_those_of_the_rankers_scores() -> None:
    """tau-b in all, by part and by model, and tau-b of prompt length: computed again here from the scores."""
    data = data_of(rows(36))
    report = evaluate(ARTIFACT, data)
    score = score_rows(ARTIFACT, vectors(ARTIFACT, data))
    assert report["kendall_tau_b"] == kendall_tau_b(data.label, score)
    for part in ("kind 0", "kind 2"):
        mask = data.part == part
        apart = report["by_part"][part]
        assert apart["rows"] == 12
        assert apart["kendall_tau_b"] == kendall_tau_b(data.label[mask], score[mask])
    sizes = np.array([float(len(row["prompt"])) for row in rows(36)])
    assert report["prompt_length_tau_b"] == pytest.approx(kendall_tau_b(data.label, sizes))
    assert report["kendall_tau_b"] > 0.5


def test_stated_tokens_are_compared_with_whole_answers_only() -> None:
    """A cut answer's length is unknown: it is in the order, not in what was expected over what came."""
    whole = rows(30)
    cut = [{**row, "id": f"c{row['id']}", "output_tokens": 1, "truncated": True} for row in rows(30)]
    alone, among = evaluate(ARTIFACT, data_of(whole)), evaluate(ARTIFACT, data_of([*whole, *cut]))
    for key in ("expected_over_actual", "interval_coverage_80"):
        assert among[key] == alone[key]
    assert among["kendall_tau_b"] != alone["kendall_tau_b"]
    ranker = LightGBMRanker(ARTIFACT)
    score = score_rows(ARTIFACT, vectors(ARTIFACT, data_of(whole)))
    stated = [ranker.artifact.calibration.predict(value).tokens for value in score]
    assert alone["expected_over_actual"] == pytest.approx(
        sum(stated) / sum(row["output_tokens"] for row in whole)
    )


def test_a_group_too_small_to_tell_is_not_told() -> None:
    """tau-b of a handful of rows would be read as a figure."""
    report = evaluate(ARTIFACT, data_of([*rows(30), {**rows(1)[0], "id": "z", "part": "rare"}]))
    assert "rare" not in report["by_part"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no usable row (the source is empty)"),
        (b'{"prompt": "x", "output_tokens": 1, "split": "train"}', "no row is held out"),
    ],
)
def test_nothing_to_judge_is_one_line_that_names_the_file(
    run: Run, tmp_path: Path, content: bytes, says: str
) -> None:
    """Exit status 1, nothing on stdout."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert run("evaluate", "--artifact", DEFAULT_ARTIFACT, "--on", path, "--json") == (
        1,
        "",
        f"headway evaluate: {path}: {says}\n",
    )


def test_a_wrong_row_or_artifact_is_one_line(run: Run, tmp_path: Path) -> None:
    """The file and the line, or the artifact's directory and both schemas."""
    path = write_rows(tmp_path / "a.jsonl", [*rows(2), {"prompt": "x", "output_tokens": []}])
    status, out, err = run("evaluate", "--artifact", DEFAULT_ARTIFACT, "--on", path)
    assert (status, out) == (1, "")
    assert err.startswith(f"headway evaluate: {path}:3: output_tokens is a list")
    directory = change_metadata(copied(tmp_path / "art"), schema_id="f" * 16)
    status, out, err = run("evaluate", "--artifact", directory, "--on", path)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert str(directory) in err
    assert "f" * 16 in err
    assert ARTIFACT.schema.id in err


def test_latency_is_measured_on_the_code_that_serves() -> None:
    """Per request and in microseconds: medians below their 99th percentiles, and nothing without requests."""
    figures = measure(ARTIFACT, data_of(rows(5)).bodies)
    assert set(figures) == {f"{n}_us_{p}" for n in ("features", "rank") for p in ("p50", "p99")}
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
    assert set(measure(ARTIFACT, []).values()) == {None}
