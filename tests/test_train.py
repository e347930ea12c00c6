"""`headway train` and `headway evaluate` from end to end, on rows whose lengths a ranker can learn."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor.artifact import load_artifact
from predictor.lightgbm_ranker import LightGBMRanker
from predictor.request import Api, InferenceRequest, body_from_dict
from training import evaluate, train

KEYS = {
    "rows", "rows_censored", "kendall_tau_b", "kendall_tau_b_interval", "pairwise_accuracy", "prompt_length_tau_b",
    "regret", "by_part", "by_model", "expected_over_actual", "interval_coverage_80", "features_us_p50",
    "features_us_p99", "rank_us_p50", "rank_us_p99",
}  # fmt: skip
ASKS = (
    ("Answer yes or no: is", 3),
    ("In one sentence, what is", 30),
    ("List ten facts about", 250),
    ("Write a story about", 900),
)
THINGS = ("iron", "the moon", "cats", "Rome", "jazz", "rain", "bread", "chess", "salt", "trains")


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts of four kinds; the lengths of a kind scatter around its own."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        ask, typical = ASKS[number % len(ASKS)]
        tokens = max(1, int(typical * rng.lognormal(0, 0.4)))
        text = f"{ask} {rng.choice(THINGS)} and {rng.choice(THINGS)} {number}?"
        found.append(
            {
                "prompt": text,
                "model": f"m{number % 2}",
                "part": ask[:4],
                "output_tokens": tokens,
                "truncated": tokens > 1_800,
                "split": "heldout" if number % 5 == 4 else "train",
            }
        )
    return found


def file_of(path: Path, content: list[dict[str, Any]]) -> str:
    """A lengths file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def command(module: Any, *arguments: str) -> int:
    """Run a command as its command line would."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(arguments)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A lengths file and the artifact that was trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    source = file_of(folder / "rows.jsonl", rows(300))
    assert command(train, "--from", source, "--out", str(folder / "a"), "--json") == 0
    return source, folder / "a"


def test_evaluate_reports_every_figure(trained: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON document on stdout, with all the keys that a dashboard may rely on, on held-out rows alone."""
    source, artifact = trained
    assert command(evaluate, "--artifact", str(artifact), "--on", source, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report.keys() >= KEYS
    assert report["rows"] == 60
    low, high = report["kendall_tau_b_interval"]
    assert low <= report["kendall_tau_b"] <= high
    assert report["kendall_tau_b"] > 0.6
    assert report["pairwise_accuracy"] > 0.8
    assert report["regret"] > 0.7
    assert 0.5 < report["expected_over_actual"] < 2
    assert 0.6 < report["interval_coverage_80"] <= 1
    assert set(report["by_model"]) == {"m0", "m1"}
    calibrated = {"rows", "kendall_tau_b", "expected_over_actual", "interval_coverage_80"}
    assert all(part.keys() == calibrated for part in report["by_part"].values())


def test_heldout_labels_teach_nothing(trained: tuple[str, Path], tmp_path: Path) -> None:
    """With the held-out answers' lengths turned round, the very same ranker comes out."""
    _, artifact = trained
    reversed_rows = [
        {**row, "output_tokens": 5_000 - row["output_tokens"]} if row["split"] == "heldout" else row
        for row in rows(300)
    ]
    source = file_of(tmp_path / "rows.jsonl", reversed_rows)
    assert command(train, "--from", source, "--out", str(tmp_path / "b")) == 0
    first, second = load_artifact(artifact).metadata.sha256, load_artifact(tmp_path / "b").metadata.sha256
    assert first == second


def test_training_twice_gives_the_same_artifact(trained: tuple[str, Path], tmp_path: Path) -> None:
    """The seed decides everything random."""
    source, artifact = trained
    assert command(train, "--from", source, "--out", str(tmp_path / "again")) == 0
    assert load_artifact(tmp_path / "again").metadata.sha256 == load_artifact(artifact).metadata.sha256


@pytest.mark.parametrize(
    "content",
    [
        [{"prompt": "the same", "output_tokens": 5 + number} for number in range(30)],
        [{**row, "truncated": True} for row in rows(30)],
        [{"prompt": "?", "output_tokens": number // 23} for number in range(30)],
        [{"prompt": [1, 2, 3], "output_tokens": number} for number in range(25)],
        [*rows(25), *({"prompt": "x" * (1 << 20), "output_tokens": n, "split": "train"} for n in range(3))],
    ],
    ids=["one prompt", "all cut", "nearly all zeros", "token ids", "huge prompts"],
)
def test_poor_data_still_gives_an_artifact_that_serves(content: list[dict[str, Any]], tmp_path: Path) -> None:
    """Too little to learn from is no crash: the artifact loads and predicts finite numbers."""
    source = file_of(tmp_path / "rows.jsonl", content)
    assert command(train, "--from", source, "--out", str(tmp_path / "a"), "--base", "none") == 0
    ranker = LightGBMRanker.load(tmp_path / "a")
    for text in ("Hello", "", "Write a very long essay"):
        said = ranker.predict(InferenceRequest("r", Api.CHAT, body_from_dict({"prompt": text}), 0))
        assert 0 <= said.quantile <= 1
        assert all(math.isfinite(value) for value in (said.tokens, said.p10_tokens, said.p90_tokens))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--from", "missing.jsonl"), "no such file"),
        (("--from", "{bad}"), "rows.jsonl:1: output_tokens is a str"),
        (("--from", "{good}", "--out", "{occupied}"), "exists and is not an artifact"),
        (("--from", "{good}", "--base", "{occupied}"), "metadata.json"),
    ],
)
def test_bad_input_of_train_is_one_line_and_status_one(
    arguments: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, nothing written over."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    (tmp_path / "x").mkdir()
    names = {
        "good": file_of(tmp_path / "good.jsonl", rows(25)),
        "bad": file_of(tmp_path / "x" / "rows.jsonl", [{"prompt": "a", "output_tokens": "5"}]),
        "occupied": str(tmp_path / "full"),
    }
    assert command(train, "--out", str(tmp_path / "out"), *(one.format(**names) for one in arguments)) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert (tmp_path / "full" / "precious.txt").read_text() == "mine"


def test_bad_input_of_evaluate_is_one_line_and_status_one(
    trained: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing artifact, and rows that are all for training."""
    source, artifact = trained
    assert command(evaluate, "--artifact", str(tmp_path / "none"), "--on", source) == 1
    only = file_of(tmp_path / "rows.jsonl", [{**row, "split": "train"} for row in rows(5)])
    assert command(evaluate, "--artifact", str(artifact), "--on", only) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "cannot read metadata.json" in lines[0]
    assert "no row is held out" in lines[1]
