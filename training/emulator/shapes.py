"""How an answer is written on the wire; one shape per dialect."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from training.emulator.choice import Choice
from training.emulator.faults import UsageLie

FINGERPRINT: Final = "emulated"


class AnswerContext(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer carries besides its tokens, and which of vLLM's optional fields the engine fills."""

    id: str
    model: str
    created: int
    cached_tokens: bool
    timing: bool
    usage_lie: UsageLie


class AnswerShape(ABC):
    """Event methods return whole SSE events, ready to send."""

    def opening(self) -> bytes:
        """Events that are sent as soon as the request is queued; none unless overridden."""
        return b""

    def first(self, choice: Choice) -> bytes:
        """Events that come before a choice's first token; none unless overridden."""
        del choice
        return b""

    @abstractmethod
    def token(self, choice: Choice) -> bytes:
        """The event of the newest token, which is not the last one."""

    @abstractmethod
    def last(self, choice: Choice, *, others_run: bool) -> bytes:
        """The events of the last token, with the finish reason."""

    @abstractmethod
    def end(self, choices: Sequence[Choice]) -> bytes:
        """Events after the last choice has finished."""

    @abstractmethod
    def unary(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The whole answer as one body."""


def named_event(name: str, body: dict[str, Any]) -> bytes:
    """An SSE event with an `event:` line."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(body))
