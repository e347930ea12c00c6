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


def load_prompts() -> list[Prompt]:
    """All shipped prompts, in file order."""
    lines = files("training").joinpath("data", "prompts.jsonl").read_bytes()
    return msgspec.json.Decoder(Prompt).decode_lines(lines)
