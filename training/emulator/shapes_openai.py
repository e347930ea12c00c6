"""vLLM's chat and completions answers: SSE events and unary bodies, key for key."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from training.emulator.choice import Choice, Usage, timing_metrics
from training.emulator.faults import UsageLie
from training.emulator.request import Ask
from training.emulator.shapes import FINGERPRINT, AnswerContext, AnswerShape

DONE: Final = b"data: [DONE]\n\n"
FILLER_LOGPROB: Final = -0.5


class _OpenAiShape(AnswerShape):
    """What chat and completions have in common."""

    object_name: str
    chunk_name: str
    running_usage_tail: bytes
    reports_created_cache: bool

    def __init__(self, ask: Ask, context: AnswerContext) -> None:
        self._ask = ask
        self._context = context
        chunk_head = msgspec.json.encode(self._head(self.chunk_name))
        self._chunk_head = b"data: " + chunk_head[:-1] + b',"choices":['
        options = ask.body.stream_options
        self._include_usage = (
            bool(options and options.include_usage) and context.usage_lie is not UsageLie.MISSING
        )
        self._running_usage = self._include_usage and bool(options and options.continuous_usage_stats)

    def token(self, choice: Choice) -> bytes:
        """The event of the newest token."""
        usage = self._usage_so_far(choice, choice.emitted)
        return b"%b%b]%b}\n\n" % (self._chunk_head, self._delta(choice, b"null"), usage)

    def last(self, choice: Choice, *, others_run: bool) -> bytes:
        """The event of the last token; the fingerprint goes here where no usage event follows."""
        rest = self._usage_so_far(choice, choice.emitted)
        if not others_run and not self._include_usage:
            rest += b',"system_fingerprint":"%b"' % FINGERPRINT.encode()
        delta = self._delta(choice, b'"%b"' % choice.reason.encode())
        return b"%b%b]%b}\n\n" % (self._chunk_head, delta, rest)

    def end(self, choices: Sequence[Choice]) -> bytes:
        """The usage event, if it was asked for, and `[DONE]`."""
        if not self._include_usage:
            return DONE
        usage = self._usage(choices)
        if self._context.cached_tokens:
            usage["prompt_tokens_details"] = _without_nulls(self._cache_details(choices))
        extra: dict[str, Any] = {"usage": usage, "system_fingerprint": FINGERPRINT}
        if self._context.timing and len(choices) == 1:
            extra["metrics"] = timing_metrics(choices[0])
        return b"%b],%b\n\n%b" % (self._chunk_head, msgspec.json.encode(extra)[1:], DONE)

    def unary(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The whole answer as one body."""
        details = self._cache_details(choices) | {"multimodal_tokens": None}
        usage = self._usage(choices)
        usage["prompt_tokens_details"] = details if self._context.cached_tokens else None
        usage["completion_tokens_details"] = None
        timed = self._context.timing and len(choices) == 1
        return {
            **self._head(self.object_name),
            "choices": [self._unary_choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": None if self._context.usage_lie is UsageLie.MISSING else usage,
            **self._unary_tail(),
            "metrics": timing_metrics(choices[0]) | {"speculative_decoding": None} if timed else None,
        }

    def _head(self, name: str) -> dict[str, Any]:
        context = self._context
        return {"id": context.id, "object": name, "created": context.created, "model": context.model}

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        usage = Usage(choices, self._ask.n, self._context.usage_lie)
        return {
            "prompt_tokens": usage.prompt_tokens,
            "total_tokens": usage.total_tokens,
            "completion_tokens": usage.completion_tokens,
        }

    def _usage_so_far(self, choice: Choice, emitted: int) -> bytes:
        if not self._running_usage:
            return b""
        counts = (choice.prompt_tokens, choice.prompt_tokens + emitted, emitted)
        usage = b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d' % counts
        return usage + self.running_usage_tail

    def _cache_details(self, choices: Sequence[Choice]) -> dict[str, Any]:
        usage = Usage(choices, self._ask.n, self._context.usage_lie)
        created = usage.created_cache_tokens if self.reports_created_cache else None
        return {"cached_tokens": usage.cached_tokens, "created_cache_tokens": created}

    @abstractmethod
    def _delta(self, choice: Choice, reason: bytes) -> bytes:
        """The choice object of the newest token's chunk; `reason` is JSON."""

    @abstractmethod
    def _unary_choice(self, choice: Choice) -> dict[str, Any]:
        """The choice object of a unary answer."""

    @abstractmethod
    def _unary_tail(self) -> dict[str, Any]:
        """Keys between usage and metrics."""


class ChatShape(_OpenAiShape):
    """/v1/chat/completions."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"
    running_usage_tail = b',"completion_tokens_details":null}'
    reports_created_cache = True

    def first(self, choice: Choice) -> bytes:
        """The role chunk."""
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        rest = self._usage_so_far(choice, 0) + b',"prompt_token_ids":null,"prompt_text":null'
        return b"%b%b]%b}\n\n" % (self._chunk_head, delta % choice.index, rest)

    def _delta(self, choice: Choice, reason: bytes) -> bytes:
        stop = b"" if reason == b"null" else b',"stop_reason":null'
        return (
            b'{"index":%d,"delta":{"content":"%b"},"logprobs":%b,"finish_reason":%b%b,"token_ids":null}'
            % (
                choice.index,
                choice.word().encode(),
                self._logprobs_json(choice),
                reason,
                stop,
            )
        )

    def _unary_choice(self, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text(), "refusal": None, "annotations": None}
        tokens = [self._logprob(word) for word in choice.words()]
        return {
            "index": choice.index,
            "message": message | {"audio": None, "function_call": None, "reasoning": None},
            "logprobs": {"content": tokens} if self._ask.body.logprobs else None,
            "finish_reason": choice.reason,
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }

    def _unary_tail(self) -> dict[str, Any]:
        names = (
            "prompt_logprobs",
            "prompt_token_ids",
            "prompt_text",
            "kv_transfer_params",
            "ec_transfer_params",
        )
        return dict.fromkeys(names)

    def _logprobs_json(self, choice: Choice) -> bytes:
        if not self._ask.body.logprobs:
            return b"null"
        return msgspec.json.encode({"content": [self._logprob(choice.word())]})

    def _logprob(self, word: str) -> dict[str, Any]:
        entry = {"token": word, "logprob": FILLER_LOGPROB, "bytes": list(word.encode())}
        return entry | {"top_logprobs": [entry] * (self._ask.body.top_logprobs or 0)}


class CompletionShape(_OpenAiShape):
    """/v1/completions. Log-probabilities are not imitated here."""

    object_name = "text_completion"
    chunk_name = "text_completion"
    running_usage_tail = b"}"
    reports_created_cache = False

    def _delta(self, choice: Choice, reason: bytes) -> bytes:
        return (
            b'{"index":%d,"text":"%b","logprobs":null,"finish_reason":%b,"stop_reason":null,'
            b'"prompt_token_ids":null,"token_ids":null}'
        ) % (choice.index, choice.word().encode(), reason)

    def _unary_choice(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": choice.text(),
            "logprobs": None,
            "finish_reason": choice.reason,
            **dict.fromkeys(
                ("stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts")
            ),
        }

    def _unary_tail(self) -> dict[str, Any]:
        return {"kv_transfer_params": None, "ec_transfer_params": None}


def _without_nulls(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}
