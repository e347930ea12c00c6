"""Answer lengths recorded from a real model and replayed: never computed from a prompt's text."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from training.prompts import Prompt, load_calls, load_prompts


class Turn(Protocol):
    """One message of a conversation, of whichever type."""

    @property
    def role(self) -> str:
        """Who speaks."""
        ...

    @property
    def content(self) -> Any:
        """Text, or a list of parts with a `text`."""
        ...


class AnswerLength(NamedTuple):
    """One recorded answer: its tokens, and whether the model stopped by itself (not at the cap)."""

    tokens: int
    stopped: bool


class RecordedLengths(msgspec.Struct, frozen=True):
    """One row of the table: the sampled answers of one shipped prompt."""

    id: str
    prompt_tokens: int
    output_tokens: tuple[int, ...]
    finish: tuple[str, ...]

    def answers(self) -> tuple[AnswerLength, ...]:
        """The samples; ValueError where the row contradicts itself."""
        if (
            not self.output_tokens
            or len(self.output_tokens) != len(self.finish)
            or min(self.output_tokens) < 1
        ):
            raise ValueError(
                f"lengths row {self.id!r}: needs as many output_tokens (each at least 1) as finish"
            )
        return tuple(
            AnswerLength(tokens, reason == "stop")
            for tokens, reason in zip(self.output_tokens, self.finish, strict=True)
        )


class LengthTable:
    """Which answer length a request gets.

    A recorded prompt gets one of its own recorded answers, any other prompt one of all recorded answers, calls
    apart. The choice depends on `draw` (the request's `seed`, or else its place in the order of arrival) and on
    the table's seed, so the same run gives the same lengths again.
    """

    def __init__(
        self,
        recorded: Mapping[bytes, tuple[AnswerLength, ...]],
        seed: int = 0,
        calls: Mapping[bytes, tuple[AnswerLength, ...]] = MappingProxyType({}),
    ) -> None:
        """`calls`: recorded too, but no other prompt is answered like one."""
        self._recorded = {**recorded, **calls}
        self._all = tuple(answer for answers in recorded.values() for answer in answers)
        self._seed = seed
        if not self._all:
            raise ValueError("a length table needs at least one recorded answer")

    @classmethod
    def of_lengths(cls, lengths: Iterable[int], seed: int = 0) -> "LengthTable":
        """A table that knows no prompt: every request gets one of these lengths."""
        return cls({b"": tuple(AnswerLength(tokens, True) for tokens in lengths)}, seed)

    @classmethod
    def load(cls, path: Path | None = None, seed: int = 0) -> "LengthTable":
        """The table that ships with Headway, or one recorded by `training.record_lengths`: of people's prompts, and
        of calls if they are in it.

        FileNotFoundError without one; ValueError, which names the file, where it cannot be read as one.
        """
        own = path or _shipped("lengths.jsonl")
        calls_by_id, prompts_by_id = _keys(load_calls()), _keys(load_prompts())
        answers = _answers(own, prompts_by_id | calls_by_id)
        calls = {key: answers.pop(key) for key in answers.keys() & calls_by_id.values()}
        try:
            return cls(answers, seed, calls or _answers(_shipped("call-lengths.jsonl"), calls_by_id))
        except ValueError as error:
            raise ValueError(f"{own}: {error}") from error

    def answer(self, messages: Iterable[Turn], draw: int) -> AnswerLength:
        """The length of the answer to this conversation."""
        answers = self._recorded.get(conversation_key(messages), self._all)
        return answers[_pick(self._seed, draw, len(answers))]

    def true_length(self, messages: Iterable[Turn], seed: int, max_tokens: int | None = None) -> int:
        """Tokens of the answer to a request with this `seed` and `max_tokens`: the oracle's view."""
        tokens = self.answer(messages, seed).tokens
        return tokens if max_tokens is None else min(tokens, max_tokens)


def _shipped(name: str) -> Traversable:
    return files("training").joinpath("data", name)


def _keys(prompts: Iterable[Prompt]) -> dict[str, bytes]:
    return {prompt.id: conversation_key(prompt.messages) for prompt in prompts}


def _answers(source: Traversable, key_by_id: Mapping[str, bytes]) -> dict[bytes, tuple[AnswerLength, ...]]:
    try:
        rows = msgspec.json.Decoder(RecordedLengths).decode_lines(source.read_bytes())
        return {key_by_id[row.id]: row.answers() for row in rows}
    except KeyError as error:
        raise ValueError(f"{source}: no shipped prompt has the id {error}; record the table anew") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error


def conversation_key(messages: Iterable[Turn]) -> bytes:
    """The identity of a conversation: a digest of who said what."""
    turns = [(turn.role, content_text(turn.content)) for turn in messages]
    return hashlib.blake2b(json.dumps(turns).encode(), digest_size=16).digest()


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or the text of its parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    text = part if isinstance(part, str) else getattr(part, "text", None)
    return text if isinstance(text, str) else ""


def _pick(seed: int, draw: int, choices: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{draw}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % choices
