"""How a text is laid out, read off its bytes: lines, lists, lettered options, fences, how it ends."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.features.layout import LAYOUT_NAMES, layout_features


def layout(text: str) -> dict[str, float]:
    """Features by name."""
    return dict(zip(LAYOUT_NAMES, layout_features(text.encode()), strict=True))


@given(st.binary(max_size=300) | st.text("A.)\n -1?`", max_size=300).map(str.encode))
def test_any_bytes_have_a_layout(raw: bytes) -> None:
    """One finite, non-negative number per name."""
    values = layout_features(raw)
    assert len(values) == len(LAYOUT_NAMES) == len(set(LAYOUT_NAMES))
    assert all(math.isfinite(value) and value >= 0 for value in values)


@given(st.lists(st.text("abc ", min_size=1, max_size=20), min_size=1, max_size=25))
def test_lines_are_counted_and_measured(lines: list[str]) -> None:
    """How many, how long on average, the first, the last and the longest; empty ones apart. With the empty ones
    they are fewer than the fifty that are looked at one by one."""
    found = layout("\n\n".join(lines))
    assert found["layout.lines"] == pytest.approx(math.log1p(len(lines)))
    assert found["layout.empty_lines"] == pytest.approx(math.log1p(len(lines) - 1))
    assert found["layout.mean_line_bytes"] == pytest.approx(math.log1p(sum(map(len, lines)) / len(lines)))
    assert found["layout.first_line_bytes"] == pytest.approx(math.log1p(len(lines[0])))
    assert found["layout.last_line_bytes"] == pytest.approx(math.log1p(len(lines[-1])))
    assert found["layout.max_line_bytes"] == pytest.approx(math.log1p(max(map(len, lines))))


def test_lists_and_indentation_are_seen() -> None:
    """Dashes, stars and numbers begin list lines; blanks and tabs indent."""
    found = layout("Sort:\n- one\n* two\n3. three\n    code\n\tmore")
    assert found["layout.list_lines"] == pytest.approx(math.log1p(3))
    assert found["layout.indented_lines"] == pytest.approx(math.log1p(2))


def test_lettered_options_are_told_from_a_sentence_with_a_letter() -> None:
    """A choice has at least two; whether they are numbers is told; the question's size is what stands before."""
    choice = layout("Which is it?\nA. iron\nB. lead\nC) tin")
    assert choice["layout.options"] == 3
    assert choice["layout.option_numbers"] == 0
    assert (
        choice["layout.question_bytes"]
        < layout("Which is it? " * 9 + "\nA. iron\nB. lead")["layout.question_bytes"]
    )
    assert layout("How many?\nA. 12\nB. 13")["layout.option_numbers"] == 1
    assert layout("A. single option")["layout.options"] == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Why?", "layout.ends_question"),
        ("Why? \n", "layout.ends_question"),
        ("Translate:", "layout.ends_colon"),
        ("Do it.", "layout.ends_stop"),
        ("```x```", "layout.fences"),
    ],
)
def test_how_a_text_ends_is_seen(text: str, name: str) -> None:
    """Trailing blanks do not hide it, and a plain word has none of these."""
    assert layout(text)[name] > 0
    assert layout("word")[name] == 0


def test_an_empty_text_has_no_layout() -> None:
    """Zeros, whatever it is empty of."""
    assert set(layout_features(b"")) == set(layout_features(b"\n\n\n")) == {0.0}
