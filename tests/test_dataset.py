"""Rows of a source: what is read, what is counted and left out, what is refused with its file and line."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.dataset import Dataset, describe, read_dataset
from training.sources import DataError, read_source


def written(path: Path, *rows: Any) -> str:
    """A lengths file of these rows; text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def read(source: str) -> Dataset:
    """The data set of a source."""
    return read_dataset(read_source(source))


def row(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A usable row; a field of None is left out."""
    whole = {"prompt": f"Question {number}?", "model": "m", "output_tokens": 10 + number, **fields}
    return {name: value for name, value in whole.items() if value is not None}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_come_as_arrays(tmp_path: Path, name: str) -> None:
    """Labels, splits, parts and models stand in the order of the file, blank lines apart."""
    source = written(
        tmp_path / name, row(1, split="train", part="a"), "", row(2, split="heldout", part="b", model="n")
    )
    data = read(source)
    assert data.label.tolist() == [11, 12]
    assert (data.split.tolist(), data.part.tolist(), data.model.tolist()) == (
        ["train", "heldout"], ["a", "b"], ["m", "n"],
    )  # fmt: skip
    assert len(data.fixed) == data.grams.shape[0] == 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(output_tokens=-1), "negative"),
        (row(output_tokens=10**12), "absurd"),
        (row(output_tokens=float("nan")), "not a number"),
        (row(output_tokens=float("inf")), "not a number"),
        (row(output_tokens=None), "no output_tokens"),
        (row(prompt=None), "no prompt"),
        (row(prompt=""), "no prompt"),
        (row(id="twice"), "duplicate id"),
    ],
)
def test_rows_that_cannot_teach_are_counted_and_left_out(tmp_path: Path, bad: Any, reason: str) -> None:
    """One unusable row costs nobody a training, and its reason is named."""
    data = read(written(tmp_path / "rows.jsonl", row(1, id="twice"), bad))
    assert len(data) == 1
    assert sum(data.skipped.values()) == 1
    assert reason in describe(data.skipped)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "a JSON object is expected, not a list"),
        (row(output_tokens="many"), "output_tokens is a str, a number is expected"),
        (row(output_tokens=True), "output_tokens is a bool, a number is expected"),
        (row(prompt=7), "prompt"),
        (row(prompt=None, messages="hello"), "messages"),
        (row(prompt=None, messages=[{"role": 3}]), "messages"),
        (row(max_tokens="many"), "max_tokens"),
        (row(split="test"), "split is 'test'; train or heldout is expected"),
    ],
)
def test_a_row_of_the_wrong_type_is_an_error_with_file_and_line(tmp_path: Path, bad: Any, says: str) -> None:
    """What a person must repair is refused in one line that says where it is."""
    source = written(tmp_path / "rows.jsonl", row(1), row(2), bad)
    with pytest.raises(DataError) as error:
        read(source)
    assert str(error.value).startswith(f"{source}:3: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[], [row(output_tokens=-1)]])
def test_a_source_without_a_usable_row_is_an_error(tmp_path: Path, content: list[Any]) -> None:
    """Empty, or nothing but unusable rows: the message counts why."""
    with pytest.raises(DataError, match="no usable row"):
        read(written(tmp_path / "rows.jsonl", *content))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("missing.jsonl", None, "no such file"),
        ("rows.csv", b"a,b\n", "unknown kind of source"),
        ("rows.jsonl.gz", b"not gzip", "damaged or cut off"),
        ("rows.jsonl.gz", gzip.compress(b"{}\n" * 1000, mtime=0)[:-20], "damaged or cut off"),
        ("rows.parquet", b"not parquet", "not a readable Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_line(
    tmp_path: Path, name: str, data: Any, says: str
) -> None:
    """Missing, of another kind, damaged or cut off."""
    if data is not None:
        (tmp_path / name).write_bytes(data)
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=says) as error:
        read(str(tmp_path / name))
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("fields", "label", "censored"),
    [
        ({"output_tokens": 50}, 50, False),
        ({"output_tokens": 50, "truncated": True}, 50, True),
        ({"output_tokens": 50, "max_tokens": 50}, 50, True),
        ({"output_tokens": 70, "max_tokens": 50}, 50, True),
        ({"output_tokens": 49, "max_tokens": 50}, 49, False),
        ({"output_tokens": 50, "max_tokens": 0}, 50, False),
    ],
)
def test_an_answer_that_reached_its_limit_is_censored(
    tmp_path: Path, fields: dict[str, Any], label: float, censored: bool
) -> None:
    """Cut answers are tied at their cap, and marked."""
    data = read(written(tmp_path / "rows.jsonl", row(**fields)))
    assert (data.label.tolist(), data.censored.tolist()) == ([label], [censored])


def test_a_split_field_decides_who_trains(tmp_path: Path) -> None:
    """No held-out row is ever among those that train."""
    rows = [row(number, split="heldout" if number % 3 == 0 else "train") for number in range(30)]
    data = read(written(tmp_path / "rows.jsonl", *rows))
    held = set(data.heldout_rows(trained_on_this=True).prompt.tolist())
    assert len(held) == 10
    assert not held & set(data.training_rows().prompt.tolist())
    with pytest.raises(DataError, match="no row has split train"):
        data.select(data.split == "heldout").training_rows()


def test_without_a_split_the_last_fifth_is_held_out(tmp_path: Path) -> None:
    """By time, as a log is ordered; of a source that nobody trained on every row is held out."""
    data = read(written(tmp_path / "rows.jsonl", *(row(number) for number in range(10))))
    assert data.training_rows().label.tolist() == list(range(10, 18))
    assert data.heldout_rows(trained_on_this=True).label.tolist() == [18, 19]
    assert len(data.heldout_rows(trained_on_this=False)) == 10
    np.testing.assert_array_equal(data.fixed, data.select(np.ones(10, dtype=np.bool_)).fixed)
