"""The prompts that ship with Headway, to record a real model's answer lengths without private traffic."""

import hashlib
from importlib.resources import files
from typing import Literal, TypeAlias

import msgspec

Split: TypeAlias = Literal["train", "measure"]


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation, as the chat API spells it."""

    role: Literal["system", "user", "assistant"]
    content: str


class Prompt(msgspec.Struct, frozen=True):
    """A conversation that waits for an answer: an optional system turn, then user and assistant in turn."""

    id: str
    kind: str
    messages: tuple[Message, ...]

    @property
    def split(self) -> Split:
        """The half it belongs to: of prompts 1 and 2, 3 and 4, … of a kind a hash picks the one to train on.

        Pairs keep the kinds balanced, and a prompt that is added later moves none of the earlier ones.
        """
        number = int(self.id.removeprefix(f"{self.kind}-"))
        pair = f"{self.kind}/{(number - 1) // 2}"
        coin = hashlib.sha256(pair.encode()).digest()[0]
        return "train" if (number + coin) % 2 else "measure"


class _Application(msgspec.Struct, frozen=True):
    """A program that asks a model the same thing of one text after another, with a few examples as earlier turns."""

    kind: str
    system: str
    examples: tuple[tuple[str, str], ...]
    inputs: tuple[str, ...]

    def calls(self) -> list[Prompt]:
        """One conversation per text."""
        shown = [Message("system", self.system)]
        for asked, answered in self.examples:
            shown += [Message("user", asked), Message("assistant", answered)]
        return [
            Prompt(f"{self.kind}-{number:03d}", self.kind, (*shown, Message("user", text)))
            for number, text in enumerate(self.inputs, start=1)
        ]


def load_prompts() -> list[Prompt]:
    """What people write, in file order."""
    return msgspec.json.Decoder(Prompt).decode_lines(_shipped("prompts.jsonl"))


def load_calls() -> list[Prompt]:
    """What programs send, in file order: labels and fields of a word or two, by a template per application."""
    applications = msgspec.json.Decoder(_Application).decode_lines(_shipped("calls.jsonl"))
    return [call for application in applications for call in application.calls()]


def _shipped(name: str) -> bytes:
    return files("training").joinpath("data", name).read_bytes()
