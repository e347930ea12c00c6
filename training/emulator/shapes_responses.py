"""vLLM's /v1/responses: plain text answers only."""

from collections.abc import Sequence
from typing import Any

from training.emulator.choice import Choice, Usage, timing_metrics
from training.emulator.faults import UsageLie
from training.emulator.request import Ask
from training.emulator.shapes import FINGERPRINT, AnswerContext, AnswerShape, named_event

_AT: dict[str, Any] = {"content_index": 0, "output_index": 0}


class ResponsesShape(AnswerShape):
    """One message, one text part; every event has a name and a sequence number."""

    def __init__(self, ask: Ask, context: AnswerContext) -> None:
        self._ask = ask
        self._context = context
        self._item_id = context.id.replace("resp_", "msg_")
        self._count = 0

    def opening(self) -> bytes:
        """`response.created` and `response.in_progress`: they do not wait for a slot."""
        response = self._response("in_progress", [], usage=None)
        return self._event("response.created", {"response": response}) + self._event(
            "response.in_progress", {"response": response}
        )

    def first(self, choice: Choice) -> bytes:
        """The message and its text part begin."""
        del choice
        item = self._item("in_progress", [])
        part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        added = self._event("response.output_item.added", {"item": item, "output_index": 0})
        return added + self._event(
            "response.content_part.added", {"item_id": self._item_id, "part": part, **_AT}
        )

    def token(self, choice: Choice) -> bytes:
        """A text delta."""
        return self._text_event("delta", choice.word())

    def last(self, choice: Choice, *, others_run: bool) -> bytes:
        """The last delta, if it has text, and the ends of text, part and message."""
        del others_run
        delta = self._text_event("delta", choice.word()) if choice.word() else b""
        done = self._text_event("done", choice.text())
        part = self._event(
            "response.content_part.done", {"item_id": self._item_id, "part": _part(choice), **_AT}
        )
        item = self._item("completed", [_part(choice)])
        return (
            delta + done + part + self._event("response.output_item.done", {"item": item, "output_index": 0})
        )

    def end(self, choices: Sequence[Choice]) -> bytes:
        """`response.completed`, with the usage."""
        return self._event("response.completed", {"response": self.unary(choices)})

    def unary(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The response object."""
        choice = choices[0]
        status = "incomplete" if choice.reason == "length" else "completed"
        item = self._item("completed", [_part(choice)])
        response = self._response(status, [item], usage=self._usage(choices))
        if choice.reason == "length":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        if self._context.timing:
            response["metrics"] = timing_metrics(choice) | {"speculative_decoding": None}
        return response

    def _event(self, name: str, body: dict[str, Any]) -> bytes:
        number = self._count
        self._count += 1
        return named_event(name, {**body, "sequence_number": number, "type": name})

    def _text_event(self, kind: str, text: str) -> bytes:
        field = "text" if kind == "done" else "delta"
        body = {field: text, "item_id": self._item_id, "logprobs": [], **_AT}
        return self._event(f"response.output_text.{kind}", body)

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "content": content,
            "role": "assistant",
            "status": status,
            "type": "message",
            "phase": None,
        }

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        lie = self._context.usage_lie
        if lie is UsageLie.MISSING:
            return None
        usage = Usage(choices, self._ask.n, lie)
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens if self._context.cached_tokens else 0,
                "cache_write_tokens": usage.created_cache_tokens,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": usage.total_tokens,
        }

    def _response(
        self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {
            "id": self._context.id,
            "created_at": self._context.created,
            "incomplete_details": None,
            "instructions": self._ask.body.instructions,
            "metadata": None,
            "model": self._context.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": self._ask.body.temperature,
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": self._ask.max_tokens,
            **dict.fromkeys(("max_tool_calls", "previous_response_id", "prompt", "reasoning")),
            "service_tier": "auto",
            "status": status,
            "text": None,
            "top_logprobs": None,
            "truncation": "disabled",
            "usage": usage,
            "user": None,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            **dict.fromkeys(
                ("kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages")
            ),
            "system_fingerprint": FINGERPRINT,
        }


def _part(choice: Choice) -> dict[str, Any]:
    return {"annotations": [], "text": choice.text(), "type": "output_text", "logprobs": None}
