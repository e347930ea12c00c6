"""Recorded lengths are replayed, never computed from text."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.request import Message as WireMessage
from predictor.request import Part
from training.lengths import AnswerLength, LengthTable, conversation_key
from training.prompts import Message, load_calls, load_prompts


def write(path: Path, *rows: dict[str, object]) -> Path:
    """A lengths file."""
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


def row(number: int, tokens: list[int], finish: str = "stop") -> dict[str, object]:
    """A row for one of the shipped prompts."""
    prompt = load_prompts()[number]
    return {"id": prompt.id, "prompt_tokens": 9, "output_tokens": tokens, "finish": [finish] * len(tokens)}


def test_a_recorded_prompt_gets_one_of_its_own_answers(tmp_path: Path) -> None:
    """Whatever the draw, never another prompt's length; every sample turns up."""
    table = LengthTable.load(write(tmp_path / "l.jsonl", row(0, [11, 12, 13]), row(1, [500])))
    first, second = (prompt.messages for prompt in load_prompts()[:2])
    assert {table.true_length(first, draw) for draw in range(50)} == {11, 12, 13}
    assert {table.true_length(second, draw) for draw in range(50)} == {500}
    assert table.true_length(second, 0, max_tokens=100) == 100


def test_an_unknown_prompt_is_drawn_from_all_recorded_answers(tmp_path: Path) -> None:
    """With the table's own frequencies, and independently of the text."""
    table = LengthTable.load(write(tmp_path / "l.jsonl", row(0, [5, 5, 5]), row(1, [900])))
    drawn = [table.true_length([Message("user", "never seen")], draw) for draw in range(2000)]
    assert 0.7 < drawn.count(5) / len(drawn) < 0.8
    assert drawn == [
        table.true_length([Message("user", "tell me a very long story")], d) for d in range(2000)
    ]


def test_a_call_is_answered_like_no_other_prompt() -> None:
    """Every shipped call has an answer of its own, most of them short; who is unknown gets a person's answer."""
    table = LengthTable.load()
    calls = [table.true_length(call.messages, 0) for call in load_calls()]
    assert calls == [table.true_length(call.messages, 1) for call in load_calls()]
    assert sorted(calls)[len(calls) // 2] <= 4
    strangers = [table.true_length([Message("user", "never seen")], draw) for draw in range(500)]
    assert sorted(strangers)[250] > 50


def test_a_table_of_calls_is_read_beside_that_of_prompts(tmp_path: Path) -> None:
    """Recorded together in one file; where a file has none of them, the shipped ones hold."""
    call = load_calls()[0]
    rows = [row(0, [77]), {"id": call.id, "prompt_tokens": 9, "output_tokens": [33], "finish": ["stop"]}]
    both = LengthTable.load(write(tmp_path / "both.jsonl", *rows))
    assert both.true_length(call.messages, 0) == 33
    assert {both.true_length([Message("user", "x")], draw) for draw in range(50)} == {77}
    people = LengthTable.load(write(tmp_path / "people.jsonl", row(0, [77])))
    assert people.true_length(call.messages, 0) == LengthTable.load().true_length(call.messages, 0)


@given(st.integers(), st.integers(-(2**63), 2**63))
def test_the_same_seed_and_draw_give_the_same_length(seed: int, draw: int) -> None:
    """Across tables and calls: a run can be repeated."""
    lengths = [3, 5, 8, 13, 21]
    first, second = LengthTable.of_lengths(lengths, seed), LengthTable.of_lengths(lengths, seed)
    turns = [Message("user", "x")]
    assert first.answer(turns, draw) == second.answer(turns, draw)
    assert first.answer(turns, draw).tokens in lengths


def test_the_cap_of_the_recording_is_remembered(tmp_path: Path) -> None:
    """An answer that hit the recording's cap is not said to have stopped by itself."""
    table = LengthTable.load(write(tmp_path / "l.jsonl", row(0, [512], "length")))
    assert table.answer(load_prompts()[0].messages, 0) == AnswerLength(512, False)


def test_a_conversation_is_the_same_however_its_content_is_wrapped() -> None:
    """Text or text parts, one message type or another: one key. Another role or text: another key."""
    plain = conversation_key([Message("user", "Hello there")])
    assert plain == conversation_key([WireMessage("user", [Part("text", "Hello "), "there"])])
    assert plain != conversation_key([Message("assistant", "Hello there")])
    assert plain != conversation_key([Message("user", "Hello"), Message("user", " there")])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json\n",
        b'{"id":"no-such-prompt","prompt_tokens":1,"output_tokens":[1],"finish":["stop"]}\n',
        b'{"id":"yesno-001","prompt_tokens":1,"output_tokens":[],"finish":[]}\n',
        b'{"id":"yesno-001","prompt_tokens":1,"output_tokens":[1,2],"finish":["stop"]}\n',
        b'{"id":"yesno-001","prompt_tokens":1,"output_tokens":[0],"finish":["stop"]}\n',
        b'{"id":"yesno-001","prompt_tokens":1,"output_tokens":"7","finish":["stop"]}\n',
    ],
)
def test_a_bad_table_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    """Empty, broken, unknown ids, contradictions: one ValueError that names the file."""
    path = tmp_path / "lengths.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"lengths\.jsonl"):
        LengthTable.load(path)


def test_a_missing_table_is_a_missing_file(tmp_path: Path) -> None:
    """FileNotFoundError, for the command to report."""
    with pytest.raises(FileNotFoundError):
        LengthTable.load(tmp_path / "none.jsonl")
