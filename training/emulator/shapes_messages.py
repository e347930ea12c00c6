"""vLLM's /v1/messages, the Anthropic dialect: plain text answers only."""

from collections.abc import Sequence
from typing import Any

from training.emulator.choice import Choice, Usage
from training.emulator.faults import UsageLie
from training.emulator.request import Ask
from training.emulator.shapes import AnswerContext, AnswerShape, named_event

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}


class MessagesShape(AnswerShape):
    """One text block; `message_delta` carries the stop reason and the usage."""

    def __init__(self, ask: Ask, context: AnswerContext) -> None:
        self._ask = ask
        self._context = context

    def first(self, choice: Choice) -> bytes:
        """The message and its text block begin."""
        message = self._message([]) | {
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": choice.prompt_tokens, "output_tokens": 0},
        }
        block = {"content_block": {"type": "text", "text": ""}, "index": 0}
        return _event("message_start", {"message": message}) + _event("content_block_start", block)

    def token(self, choice: Choice) -> bytes:
        """A text delta."""
        return _event(
            "content_block_delta", {"delta": {"type": "text_delta", "text": choice.word()}, "index": 0}
        )

    def last(self, choice: Choice, *, others_run: bool) -> bytes:
        """The last delta, if it has text, and the end of the block."""
        del others_run
        delta = self.token(choice) if choice.word() else b""
        return delta + _event("content_block_stop", {"index": 0})

    def end(self, choices: Sequence[Choice]) -> bytes:
        """Stop reason, usage, `message_stop`."""
        body: dict[str, Any] = {
            "delta": {"stop_reason": _STOP_REASONS[choices[0].reason], "stop_sequence": None}
        }
        usage = self._usage(choices)
        if usage is not None:
            body["usage"] = usage
        return _event("message_delta", body) + _event("message_stop", {})

    def unary(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The message object."""
        choice = choices[0]
        return self._message([{"type": "text", "text": choice.text()}]) | {
            "stop_reason": _STOP_REASONS[choice.reason],
            "usage": self._usage(choices),
        }

    def _message(self, content: list[dict[str, str]]) -> dict[str, Any]:
        return {
            "id": self._context.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._context.model,
        }

    def _usage(self, choices: Sequence[Choice]) -> dict[str, int] | None:
        lie = self._context.usage_lie
        if lie is UsageLie.MISSING:
            return None
        usage = Usage(choices, self._ask.n, lie)
        cached = usage.cached_tokens if self._context.cached_tokens else 0
        return {
            "input_tokens": usage.prompt_tokens - cached,
            "output_tokens": usage.completion_tokens,
            "cache_creation_input_tokens": usage.created_cache_tokens,
            "cache_read_input_tokens": cached,
        }


def _event(name: str, body: dict[str, Any]) -> bytes:
    return named_event(name, {"type": name, **body})
