"""`headway train`: from rows with lengths to an artifact that ranks, or one line that says why not."""

import json
import shutil
from pathlib import Path

import pytest
from rankers import asked
from training_rows import KINDS, Row, Run, rows, write_rows

from predictor.artifact import load_artifact, read_metadata
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker


def test_what_is_trained_ranks_requests(run: Run, tmp_path: Path) -> None:
    """One command gives an artifact that loads, says what it was made of, and puts short answers first."""
    source = write_rows(tmp_path / "rows.jsonl", [*rows(60), {"prompt": "x"}])
    status, out, err = run("train", "--from", source, "--out", tmp_path / "art", "--json")
    report = json.loads(out)
    assert (status, err) == (0, "")
    assert (report["rows"], report["rows_censored"]) == (48, 0)
    assert report["rows_skipped"] == {"no output_tokens": 1}
    metadata = read_metadata(tmp_path / "art")
    assert metadata.training["fingerprint"] == report["fingerprint"]
    assert metadata.name.startswith("art-")
    ranker = LightGBMRanker.load(tmp_path / "art")
    said = [ranker.predict(asked(form.format("lead"))) for form, _ in KINDS]
    assert said[0].quantile < said[1].quantile < said[2].quantile
    assert said[0].tokens < said[1].tokens < said[2].tokens


def test_the_same_rows_give_the_same_artifact(run: Run, tmp_path: Path) -> None:
    """Files, hashes and all, for one seed; another seed draws other folds and trees."""
    source = write_rows(tmp_path / "rows.jsonl", rows(45))
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("train", "--from", source, "--out", tmp_path / name, "--seed", seed, "--json")[0] == 0
        digests.append(read_metadata(tmp_path / name).sha256)
    assert digests[0] == digests[1] != digests[2]


SMALL = {
    "one prompt": [{**row, "prompt": "Go on."} for row in rows(25)],
    "blank prompts": [{**row, "prompt": " "} for row in rows(25)],
    "token ids": [{**row, "prompt": [1, 2, 3]} for row in rows(25)],
    "every answer cut": [{**row, "truncated": True} for row in rows(25)],
    "absurd lengths": [{**row, "output_tokens": 10_000_000 * (i % 2)} for i, row in enumerate(rows(25))],
    "a prompt of fifty megabytes": [*rows(25), {"prompt": "iron " * (10 << 20), "output_tokens": 5}],
}


@pytest.mark.parametrize("base", ["shipped", "none"])
@pytest.mark.parametrize("what", SMALL)
def test_the_poorest_data_give_an_artifact_that_serves(
    run: Run, tmp_path: Path, what: str, base: str
) -> None:
    """One prompt, no words, no whole answer: no failure, no warning, and every request gets a prediction in range."""
    chosen = DEFAULT_ARTIFACT if base == "shipped" else "none"
    source = write_rows(tmp_path / "rows.jsonl", SMALL[what])
    status, _, err = run("train", "--from", source, "--out", tmp_path / "art", "--base", chosen)
    assert (status, err) == (0, "")
    ranker = LightGBMRanker.load(tmp_path / "art")
    usable = [row["output_tokens"] for row in SMALL[what]]
    for prompt in ("", "Is it?", "Write an essay. " * 500):
        one = ranker.predict(asked(prompt))
        assert 0 <= one.quantile <= 1
        assert min(usable) <= one.p10_tokens <= one.p90_tokens <= max(usable)


def test_bad_rows_among_good_ones_are_counted_or_named(run: Run, tmp_path: Path) -> None:
    """What says nothing is skipped and counted; a wrong type ends with file and line, and writes nothing."""
    bad = [
        {"prompt": "x"},
        {"output_tokens": 4},
        {"prompt": "x", "output_tokens": float("nan")},
        {"prompt": "x", "output_tokens": -3},
        {"prompt": "x", "output_tokens": 10**12},
        {"prompt": "x", "output_tokens": 3, "id": "0"},
    ]
    path = write_rows(tmp_path / "rows.jsonl", [*rows(25), *bad])
    status, out, _ = run("train", "--from", path, "--out", tmp_path / "art", "--json")
    assert status == 0
    assert sum(json.loads(out)["rows_skipped"].values()) == len(bad)
    path = write_rows(tmp_path / "rows.jsonl", [*rows(3), {"prompt": "x", "output_tokens": "many"}])
    status, out, err = run("train", "--from", path, "--out", tmp_path / "other", "--json")
    assert (status, out) == (1, "")
    assert err == f"headway train: {path}:4: output_tokens is a str, a number is expected\n"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "no usable row (the source is empty)"),
        ([{"prompt": "x"}], "no usable row (1 skipped: no output_tokens)"),
        (rows(4, split="heldout"), "no row has split train"),
        (rows(1), "rows to train on: 1 of 1 usable ones; at least 20 are needed"),
        (rows(24), "rows to train on: 19 of 24 usable ones; at least 20 are needed"),
        (
            [{**row, "output_tokens": 7} for row in rows(25)],
            "all 20 rows to train on have the same length, 7 tokens: there is no order to learn",
        ),
        (
            [{**row, "output_tokens": 0} for row in rows(25)],
            "all 20 rows to train on have the same length, 0 tokens: there is no order to learn",
        ),
    ],
)
def test_too_little_to_train_on_is_one_line_that_names_the_file(
    run: Run, tmp_path: Path, given: list[Row], says: str
) -> None:
    """The exit status is 1 and stdout stays empty, so that a script notices; no artifact is written."""
    path, out = write_rows(tmp_path / "rows.jsonl", given), tmp_path / "art"
    assert run("train", "--from", path, "--out", out) == (1, "", f"headway train: {path}: {says}\n")
    assert not out.exists()


def test_where_it_cannot_write_it_says_so(run: Run, tmp_path: Path) -> None:
    """A directory with other things in it, a file in its way: one line, and what is there stays."""
    source = write_rows(tmp_path / "rows.jsonl", rows(25))
    status, _, err = run("train", "--from", source, "--out", tmp_path, "--base", "none")
    assert status == 1
    assert "is not an artifact; choose another --out" in err
    status, _, err = run("train", "--from", source, "--out", source / "art", "--base", "none")
    assert (status, err.count("\n")) == (1, 1)
    assert "cannot write" in err
    status, _, err = run("train", "--from", source, "--out", tmp_path / "a", "--base", tmp_path / "nowhere")
    assert (status, err.count("\n")) == (1, 1)


@pytest.mark.parametrize("options", [["--seed", "-1"], ["--seed", "one"], ["--objective", "magic"]])
def test_an_option_that_cannot_be_is_refused_before_anything_is_read(options: list[str], run: Run) -> None:
    """As a misspelt option is: exit status 2 and the usage."""
    with pytest.raises(SystemExit) as ended:
        run("train", "--from", "nowhere.jsonl", *options)
    assert ended.value.code == 2


@pytest.mark.parametrize("objective", ["cross_entropy", "regression", "lambdarank", "rank_xendcg"])
def test_each_objective_that_was_compared_can_be_chosen(run: Run, tmp_path: Path, objective: str) -> None:
    """Lambdarank and xendcg see groups, regression lengths' places: each gives an artifact that orders."""
    source, out = write_rows(tmp_path / "rows.jsonl", rows(60)), tmp_path / "art"
    assert run("train", "--from", source, "--out", out, "--objective", objective)[0] == 0
    ranker = LightGBMRanker.load(out)
    low, high = (ranker.predict(asked(KINDS[kind][0].format("tin"))).quantile for kind in (0, 2))
    assert low < high


def test_training_again_replaces_the_artifact(run: Run, tmp_path: Path) -> None:
    """The second has other hashes and no file of the first's is left behind."""
    out = tmp_path / "art"
    shutil.copytree(DEFAULT_ARTIFACT, out)
    assert run("train", "--from", write_rows(tmp_path / "rows.jsonl", rows(30)), "--out", out)[0] == 0
    assert not (out / "MODEL_CARD.md").exists()
    assert load_artifact(out).metadata.training["rows"] == 24
