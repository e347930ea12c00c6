"""Rows as arrays: what is usable, what is censored, which rows train; wrong rows are refused or counted."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from predictor.features.extractor import FIXED_NAMES
from predictor.features.grams import Grams, pack_grams
from predictor.history import HISTORY_NAMES
from predictor.request import body_from_dict
from training.dataset import Dataset, pick_columns, read_dataset
from training.sources import DataError, SourceRow

GOOD = {"prompt": "Hello", "output_tokens": 5}


def read(*rows: dict[str, Any]) -> Dataset:
    """These rows, the first standing at line 1 of data.jsonl."""
    return read_dataset(SourceRow(f"data.jsonl:{number}", row) for number, row in enumerate(rows, start=1))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "x"}, "no output_tokens"),
        ({**GOOD, "output_tokens": math.nan}, "not a number"),
        ({**GOOD, "output_tokens": math.inf}, "absurd"),
        ({**GOOD, "output_tokens": -1}, "negative"),
        ({**GOOD, "output_tokens": 10**9}, "absurd"),
        ({**GOOD, "output_tokens": 10**400}, "absurd"),
        ({"output_tokens": 5}, "no prompt"),
        ({"output_tokens": 5, "prompt": ""}, "no prompt"),
        ({"output_tokens": 5, "messages": []}, "no prompt"),
        ({"output_tokens": 5, "features": [1, 2]}, "no prompt"),
        ({**GOOD, "hidden_reasoning": True}, "hidden reasoning"),
        ({**GOOD, "id": "first"}, "duplicate id"),
    ],
)
def test_a_row_that_says_nothing_is_skipped_and_counted(row: dict[str, Any], reason: str) -> None:
    """No length, an impossible one, no prompt, a row met before: the others train, and the report has a count."""
    data = read({**GOOD, "id": "first"}, row)
    assert len(data) == 1
    ((said, count),) = data.skipped.items()
    assert reason in said
    assert count == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"output_tokens": "5"},
        {"output_tokens": True},
        {"prompt": 5},
        {"prompt": [None]},
        {"messages": "Hello"},
        {"messages": [{"role": 5}]},
        {"max_tokens": "many"},
        {"model": 8},
        {"tools": "all"},
        {"split": "test"},
        {"split": ["train"]},
        {"truncated": "no"},
        {"truncated": 3},
        {"prompt": "lone \ud800 surrogate"},
    ],
)
def test_a_row_of_the_wrong_type_is_refused_by_file_and_line(fields: dict[str, Any]) -> None:
    """It is a mistake in the data that a count would hide: the message says where."""
    with pytest.raises(DataError, match=r"^data\.jsonl:2: \S"):
        read(GOOD, {**GOOD, **fields})


@pytest.mark.parametrize(
    ("fields", "label", "censored"),
    [
        ({}, 100, False),
        ({"max_tokens": 101}, 100, False),
        ({"max_tokens": 100}, 100, True),
        ({"max_tokens": 30}, 30, True),
        ({"max_completion_tokens": 30}, 30, True),
        ({"sampling_params": {"max_new_tokens": 30}}, 30, True),
        ({"max_tokens": 0}, 100, False),
        ({"truncated": True}, 100, True),
        ({"truncated": 1}, 100, True),
        ({"truncated": False, "max_tokens": 100}, 100, True),
        ({"truncated": True, "max_tokens": 300}, 100, True),
        ({"n": 4, "max_tokens": 30}, 100, False),
        ({"n": 4, "max_tokens": 25}, 100, True),
        ({"prompt": ["x", "y"], "n": 2, "max_tokens": 20}, 80, True),
    ],
)
def test_a_cut_answer_is_censored_and_tied_at_its_cap(
    fields: dict[str, Any], label: float, censored: bool
) -> None:
    """An answer that reached its limit is at least so long: its label is the limit, whatever was counted.

    The limit is each answer's own, the count that of all.
    """
    data = read({"prompt": "x", "output_tokens": 100, **fields})
    assert (data.label.tolist(), data.censored.tolist()) == ([label], [censored])


@pytest.mark.parametrize(
    ("n", "label", "censored"), [(None, 50, True), (1, 50, True), (2, 100, True), (4, 100, False)]
)
def test_a_logged_request_for_several_answers_has_its_limit_for_each(
    n: int | None, label: float, censored: bool
) -> None:
    """The log keeps their number among the features."""
    values = np.array([np.nan if n is None else np.log1p(n), np.log1p(1)], dtype="<f4")
    names = ("control.n", "control.prompts")
    row = {
        "id": "r1",
        "features": values.tobytes(),
        "feature_names": names,
        "output_tokens": 100,
        "max_tokens": 50,
    }
    data = read(row)
    assert (data.label.tolist(), data.censored.tolist()) == ([label], [censored])


def test_equal_prompts_of_a_log_are_one_prompt() -> None:
    """By its text, its n-grams or else its features, so that no fold teaches what another is judged by, and the gate
    does not take a prompt that comes again and again for as many proofs."""
    logged = {
        "features": np.zeros(1, dtype="<f4").tobytes(),
        "feature_names": ("size.focus",),
        "output_tokens": 5,
    }
    grams = [pack_grams(Grams(15, np.array(bins, dtype=np.uint32))) for bins in ([1, 2], [1, 2], [1, 3])]
    hashed = read(*({**logged, "id": f"h{n}", "grams": one} for n, one in enumerate(grams))).prompt
    assert hashed[0] == hashed[1] != hashed[2]
    bodies = [body_from_dict({"prompt": text}) for text in ("a?", "a?", "b?")]
    full = read(*({**logged, "id": f"f{n}", "body": one} for n, one in enumerate(bodies))).prompt
    assert full[0] == full[1] != full[2]
    assert full[0] == read({"prompt": "a?", "output_tokens": 5}).prompt[0]
    names = ("size.focus", HISTORY_NAMES[0])
    values = [np.array(pair, dtype="<f4").tobytes() for pair in ([1, 2], [1, 3], [2, 2])]
    rows = (
        {**logged, "id": f"v{n}", "features": one, "feature_names": names} for n, one in enumerate(values)
    )
    alike = read(*rows).prompt
    assert alike[0] == alike[1] != alike[2]
    nothing = {**logged, "features": np.full(1, np.nan, dtype="<f4").tobytes()}
    unknown = read({**nothing, "id": "x"}, {**nothing, "id": "y"}).prompt
    assert unknown[0] != unknown[1]


def test_a_split_is_honoured() -> None:
    """Rows marked train train, rows marked heldout evaluate; those marked neither do neither, and are counted."""
    marks = ["heldout", "train", "", "train", "heldout", "heldout"]
    data = read(*({**GOOD, "output_tokens": n, "split": mark} for n, mark in enumerate(marks)))
    assert data.training_rows().label.tolist() == [1, 3]
    assert data.heldout_rows(trained_on_this=True).label.tolist() == [0, 4, 5]
    assert data.heldout_rows(trained_on_this=False).label.tolist() == [0, 4, 5]
    assert data.skipped == {"no split, where other rows have one": 1}


@given(st.integers(1, 60))
def test_without_a_split_the_earlier_rows_train(rows: int) -> None:
    """The first four fifths train and the last fifth is held out: nothing trains on its own future."""
    data = read(*({**GOOD, "output_tokens": n} for n in range(rows)))
    trained = data.training_rows().label.tolist()
    assert trained == list(range(max(1, int(0.8 * rows))))
    if rows > 1:
        assert data.heldout_rows(trained_on_this=True).label.tolist() == list(range(len(trained), rows))
    assert data.heldout_rows(trained_on_this=False).label.tolist() == list(range(rows))


def test_no_rows_to_train_or_to_evaluate_on_is_an_error() -> None:
    """An empty source, nothing usable, or nothing in the part that is asked for."""
    with pytest.raises(DataError, match="the source is empty"):
        read()
    with pytest.raises(
        DataError, match=r"no usable row \(2 skipped: no prompt, 1 skipped: no output_tokens\)"
    ):
        read({"output_tokens": 1}, {"output_tokens": 2}, {"prompt": "x"})
    with pytest.raises(DataError, match="no row has split train"):
        read({**GOOD, "split": "heldout"}).training_rows()
    with pytest.raises(DataError, match="no row is held out"):
        read({**GOOD, "split": "train"}).heldout_rows(trained_on_this=False)
    with pytest.raises(DataError, match="no row is held out"):
        read(GOOD).heldout_rows(trained_on_this=True)


@profile(max_examples=50)
@given(st.lists(st.booleans(), min_size=5, max_size=5))
def test_a_selection_takes_every_column_along(mask: list[bool]) -> None:
    """A row keeps its label, features, n-grams, body, history key and names, whichever rows go."""
    rows = [
        {"prompt": f"{n} " * n, "output_tokens": n, "model": f"m{n}", "tenant": f"t{n}", "part": f"p{n}"}
        for n in range(1, 6)
    ]
    data = read(*rows)
    some = data.select(np.array(mask))
    assert len(some) == sum(mask)
    alone = [read(row) for row, kept in zip(rows, mask, strict=True) if kept]
    for place, one in enumerate(alone):
        np.testing.assert_array_equal(some.fixed[place], one.fixed[0])
        assert (some.grams[place] != one.grams[0]).nnz == 0
        assert some.bodies[place] == one.bodies[0]
        assert some.keys[place] == one.keys[0]
        for name in ("label", "part", "model", "prompt", "tenant"):
            assert getattr(some, name)[place] == getattr(one, name)[0]
    if alone:
        joined = Dataset.concatenate(alone)
        np.testing.assert_array_equal(joined.fixed, some.fixed)
        assert joined.prompt.tolist() == some.prompt.tolist()
        assert (joined.grams != some.grams).nnz == 0


def test_the_same_prompt_has_one_name_and_another_has_another() -> None:
    """Folds and intervals keep all rows of a prompt together, whatever else differs."""
    first, again, system, other = read(
        GOOD,
        {**GOOD, "output_tokens": 900, "model": "other", "max_tokens": 7000},
        {**GOOD, "system": "Be brief."},
        {**GOOD, "prompt": "Hello!"},
    ).prompt
    assert first == again
    assert len({first, system, other}) == 3


def logged(number: int, names: tuple[str, ...], values: list[float], **fields: Any) -> dict[str, Any]:
    """A row of a traffic log."""
    return {
        "id": f"r{number}", "output_tokens": 10 + number, "truncated": False, "feature_names": names,
        "features": np.array(values, dtype="<f4").tobytes(), **fields,
    }  # fmt: skip


def test_a_log_of_two_versions_is_read_by_name() -> None:
    """Rows of an older schema, of another order, stand under the same names; what they lack is NaN."""
    data = read(logged(1, ("a", "b"), [1, 2]), logged(2, ("b", "new", "a"), [20, 30, 10]))
    assert data.logged is not None
    columns = pick_columns(data.logged, data.names, ("a", "b", "new", "never"))
    np.testing.assert_array_equal(columns, [[1, 2, np.nan, np.nan], [10, 20, 30, np.nan]])
    assert not data.bodies
    fixed = pick_columns(data.logged, data.names, FIXED_NAMES)
    np.testing.assert_array_equal(data.fixed, fixed)


def test_logged_features_that_do_not_fit_their_names_are_refused_by_row() -> None:
    """A number too many, or bytes that are no whole number: the row is named."""
    for broken in (logged(1, ("a",), [1, 2]), {**logged(1, ("a",), [1]), "features": b"abc"}):
        with pytest.raises(DataError, match=r"^data\.jsonl:1: \d+ bytes of features for 1 names"):
            read(broken)


def test_a_name_of_megabytes_costs_one_row_its_end_and_the_others_nothing() -> None:
    """Engines that do not look at a model's name answer to any: arrays must not give each row the longest one's room."""
    long = "\N{SNOWMAN}" * 1_000_000
    logged = {
        "output_tokens": 5, "features": bytes(4), "feature_names": ("one",), "model": long, "tenant": long,
        "class_name": long,
    }  # fmt: skip
    for data in (
        read({**logged, "id": "a"}, {**logged, "id": "b", "model": "m"}),
        read({**GOOD, "model": long, "tenant": long, "part": long}, {**GOOD, "model": "m"}),
    ):
        assert data.model[1] == "m"
        assert max(data.model.itemsize, data.tenant.itemsize, data.part.itemsize) <= 1_000


def test_text_and_logged_rows_are_not_mixed() -> None:
    """Half the rows without text would teach the head that long prompts are empty."""
    with pytest.raises(DataError, match="one kind at a time"):
        read(GOOD, logged(1, ("a",), [1]))


def test_a_lengths_file_may_call_a_field_features() -> None:
    """Only a log's bytes are features; a prompt beside anything of that name is still a prompt."""
    assert read({**GOOD, "features": ["fast", "cheap"]}).logged is None


def test_fifty_megabytes_in_one_row_are_read() -> None:
    """A prompt of any size is a row like others, its features those of its head and tail."""
    data = read({"prompt": "iron " * (10 << 20), "output_tokens": 5}, GOOD)
    assert len(data) == 2
    assert data.grams[0].nnz < 20_000
    assert np.isfinite(data.fixed[0][~np.isnan(data.fixed[0])]).all()
