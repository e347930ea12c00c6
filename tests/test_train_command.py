"""`headway train`: from rows with lengths to an artifact that ranks, or one line that says why not."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logged_traffic import write_log
from rankers import asked

import headway
import training.train
from predictor.artifact import load_artifact, read_metadata
from predictor.features.extractor import schema_of
from predictor.features.schema import FloatArray
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.records import Outcome, TrafficRecord
from predictor.traffic_store import open_store, write_records
from training.bundle import write_bundle
from training.dataset import read_dataset
from training.progress import show_progress
from training.sources import SourceRow
from training.train import order_target, train

Row = dict[str, Any]
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


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """A `headway` command: its exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = headway.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return call


@pytest.fixture
def lengths(tmp_path: Path) -> Callable[[list[Row]], Path]:
    """Writes rows to a lengths file."""

    def write(given: list[Row]) -> Path:
        path = tmp_path / "lengths.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        return path

    return write


def test_what_is_trained_ranks_requests(
    run: Run, lengths: Callable[[list[Row]], Path], tmp_path: Path
) -> None:
    """One command gives an artifact that loads, says what it was made of, and puts short answers first."""
    source = lengths([*rows(60), {"prompt": "x"}])
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


def test_the_same_rows_give_the_same_artifact(
    lengths: Callable[[list[Row]], Path], run: Run, tmp_path: Path
) -> None:
    """Files, hashes and all, for one seed; another seed draws other folds and trees."""
    source = lengths(rows(45))
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("train", "--from", source, "--out", tmp_path / name, "--seed", seed, "--json")[0] == 0
        digests.append(read_metadata(tmp_path / name).sha256)
    assert digests[0] == digests[1] != digests[2]


def trained(given: list[Row], **options: Any) -> tuple[Any, Row]:
    """Train without an artifact to start from."""
    data = read_dataset(SourceRow(f"row {number}", row) for number, row in enumerate(given))
    with show_progress() as steps:
        return train(
            data, options.pop("base", None), objective="cross_entropy", seed=0, steps=steps, **options
        )


def models(bundle: Any) -> dict[str, bytes]:
    """The ranker's models as an artifact keeps them."""
    return dict(bundle.ranker.files(schema_of(bundle.head)))


def test_held_out_rows_teach_nothing() -> None:
    """Whatever the rows marked heldout say, the artifact is the same to the last byte."""
    train_rows = rows(30, split="train")
    held = [{**row, "id": f"h{row['id']}", "split": "heldout"} for row in rows(12)]
    other = [{**row, "output_tokens": 5000, "prompt": "Other words."} for row in held]
    first, again = trained([*held, *train_rows])[0], trained([*other, *train_rows])[0]
    assert models(first) == models(again)
    assert first.calibration == again.calibration
    np.testing.assert_array_equal(first.head.weights, again.head.weights)


def test_without_a_split_the_last_fifth_teaches_nothing() -> None:
    """Time decides: what came last is left to be evaluated on."""
    given = rows(40)
    changed = [*given[:32], *({**row, "output_tokens": 5000} for row in given[32:])]
    first, again = trained(given)[0], trained(changed)[0]
    assert models(first) == models(again)
    assert first.calibration == again.calibration


def test_censored_rows_stay_out_of_the_calibration() -> None:
    """They are ranked, tied at their cap; no expected length comes from them."""
    cut = [
        {**row, "output_tokens": 5000, "max_tokens": 5000} if number % 3 == 2 else row
        for number, row in enumerate(rows(60))
    ]
    bundle, report = trained(cut)
    whole = [row["output_tokens"] for row in cut[:48] if row["output_tokens"] < 5000]
    assert (report["rows_censored"], len(whole)) == (16, 32)
    calibration = bundle.calibration
    for tokens in (calibration.tokens, calibration.p10_tokens, calibration.p90_tokens):
        assert min(whole) <= tokens.y[0] <= tokens.y[-1] <= max(whole)


def test_the_target_goes_by_place_and_by_size() -> None:
    """Longer is never less, ties are equal, and one absurd length leaves the others apart."""
    lengths = np.concatenate([np.repeat(np.arange(1.0, 101.0), 2), [1e7]])
    target = order_target(lengths)
    assert (np.diff(target) >= 0).all()
    assert (target[0:200:2] == target[1:200:2]).all()
    assert 0 < target[0] < 0.02 < 0.98 < target[-1] == 1.0
    assert 0.45 < target[100] < 0.55
    middle = order_target(np.array([10.0, 20.0, 30.0, 2000.0]))
    assert np.diff(middle)[-1] > 2 * np.diff(middle)[0]


@pytest.mark.parametrize("lengths", [[0.0], [0.0, 0.0], [7.0, 7.0, 7.0]])
def test_the_target_of_equal_lengths_is_equal(lengths: list[float]) -> None:
    """Nothing to tell apart, nothing to divide by: still within [0, 1]."""
    target = order_target(np.array(lengths))
    assert len(set(target.tolist())) == 1
    assert 0 <= target[0] <= 1


def test_training_starts_from_what_other_prompts_taught() -> None:
    """By default the shipped prior columns are lent under their names; with none there are none."""
    base = load_artifact(DEFAULT_ARTIFACT).head
    lent = [name for name in base.names if ".prior_" in name]
    with_base = trained(rows(30), base=base)[0].head.names
    alone = trained(rows(30))[0].head.names
    assert lent
    assert with_base[: len(lent)] == tuple(lent)
    assert not any(".prior_" in name for name in alone)


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
    run: Run, lengths: Callable[[list[Row]], Path], tmp_path: Path, what: str, base: str
) -> None:
    """One prompt, no words, no whole answer: no failure, no warning, and every request gets a prediction in range."""
    chosen = DEFAULT_ARTIFACT if base == "shipped" else "none"
    status, _, err = run("train", "--from", lengths(SMALL[what]), "--out", tmp_path / "art", "--base", chosen)
    assert (status, err) == (0, "")
    ranker = LightGBMRanker.load(tmp_path / "art")
    usable = [row["output_tokens"] for row in SMALL[what]]
    for prompt in ("", "Is it?", "Write an essay. " * 500):
        one = ranker.predict(asked(prompt))
        assert 0 <= one.quantile <= 1
        assert min(usable) <= one.p10_tokens <= one.p90_tokens <= max(usable)


def test_bad_rows_among_good_ones_are_counted_or_named(
    run: Run, lengths: Callable[[list[Row]], Path], tmp_path: Path
) -> None:
    """What says nothing is skipped and counted; a wrong type ends with file and line, and writes nothing."""
    bad = [
        {"prompt": "x"},
        {"output_tokens": 4},
        {"prompt": "x", "output_tokens": float("nan")},
        {"prompt": "x", "output_tokens": -3},
        {"prompt": "x", "output_tokens": 10**12},
        {"prompt": "x", "output_tokens": 3, "id": "0"},
    ]
    status, out, _ = run("train", "--from", lengths([*rows(25), *bad]), "--out", tmp_path / "art", "--json")
    assert status == 0
    assert sum(json.loads(out)["rows_skipped"].values()) == len(bad)
    path = lengths([*rows(3), {"prompt": "x", "output_tokens": "many"}])
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
    run: Run, lengths: Callable[[list[Row]], Path], tmp_path: Path, given: list[Row], says: str
) -> None:
    """The exit status is 1 and stdout stays empty, so that a script notices; no artifact is written."""
    path, out = lengths(given), tmp_path / "art"
    assert run("train", "--from", path, "--out", out) == (1, "", f"headway train: {path}: {says}\n")
    assert not out.exists()


def test_where_it_cannot_write_it_says_so(
    run: Run, lengths: Callable[[list[Row]], Path], tmp_path: Path
) -> None:
    """A directory with other things in it, a file in its way: one line, and what is there stays."""
    source = lengths(rows(25))
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
def test_each_objective_that_was_compared_can_be_chosen(
    run: Run, lengths: Callable[[list[Row]], Path], tmp_path: Path, objective: str
) -> None:
    """Lambdarank and xendcg see groups, regression lengths' places: each gives an artifact that orders."""
    out = tmp_path / "art"
    assert run("train", "--from", lengths(rows(60)), "--out", out, "--objective", objective)[0] == 0
    ranker = LightGBMRanker.load(out)
    low, high = (ranker.predict(asked(KINDS[kind][0].format("tin"))).quantile for kind in (0, 2))
    assert low < high


def log_of(path: Path, drop: int = 0) -> str:
    """A traffic log of forty requests by the shipped ranker, its schema lacking the first `drop` fixed names."""
    ranker = LightGBMRanker.load()
    records, names = [], ranker.artifact.schema.names[drop:]
    for number, row in enumerate(rows(40)):
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


@pytest.mark.parametrize("drop", [0, 7])
def test_a_traffic_log_without_any_text_trains(run: Run, tmp_path: Path, drop: int) -> None:
    """On logged numbers, an older schema's too: what it lacks is absent, the head that wrote it stays."""
    source = log_of(tmp_path / "traffic.db", drop)
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
    source = log_of(tmp_path / "traffic.db")
    status, _, err = run("train", "--from", source, "--out", tmp_path / "art", "--base", "none")
    assert status == 1
    assert "--base" in err


def test_training_again_replaces_the_artifact(
    run: Run, lengths: Callable[[list[Row]], Path], tmp_path: Path
) -> None:
    """The second has other hashes and no file of the first's is left behind."""
    out = tmp_path / "art"
    shutil.copytree(DEFAULT_ARTIFACT, out)
    assert run("train", "--from", lengths(rows(30)), "--out", out)[0] == 0
    assert not (out / "MODEL_CARD.md").exists()
    assert load_artifact(out).metadata.training["rows"] == 24


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
