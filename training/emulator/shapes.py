"""The shapes of vLLM's chat and completions answers: SSE events and unary bodies, key for key."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from training.emulator.choice import Choice, Usage, timing_metrics
from training.emulator.faults import UsageLie
from training.emulator.request import Ask

FINGERPRINT: Final = "emulated"
DONE: Final = b"data: [DONE]\n\n"
FILLER_LOGPROB: Final = -0.5


class AnswerContext(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer carries besides its tokens, and which of vLLM's optional fields the engine fills."""

    id: str
    model: str
    created: int
    cached_tokens: bool
    timing: bool
    usage_lie: UsageLie


class AnswerShape(ABC):
    """How an answer is written. Event methods return whole SSE events, ready to send."""

    def first(self, choice: Choice) -> bytes:
        """Events that come before a choice's first token; none unless overridden."""
        del choice
        return b""

    @abstractmethod
    def token(self, choice: Choice) -> bytes:
        """The event of the newest token, which is not the last one."""

    @abstractmethod
    def last(self, choice: Choice, *, others_run: bool) -> bytes:
        """The event of the last token, with the finish reason."""

    @abstractmethod
    def end(self, choices: Sequence[Choice]) -> bytes:
        """Events after the last choice has finished."""

    @abstractmethod
    def unary(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The whole answer as one body."""


class _OpenAiShape(AnswerShape):
    """What chat and completions have in common."""

    object_name: str
    chunk_name: str

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
        return b"%b%b]%b}\n\n" % (self._chunk_head, self._delta(choice, b"null"), self._usage_so_far(choice))

    def last(self, choice: Choice, *, others_run: bool) -> bytes:
        """The event of the last token; the fingerprint goes here where no usage event follows."""
        rest = self._usage_so_far(choice)
        if not others_run and not self._include_usage:
            rest += b',"system_fingerprint":"%b"' % FINGERPRINT.encode()
        return b"%b%b]%b}\n\n" % (
            self._chunk_head,
            self._delta(choice, b'"%b"' % choice.reason.encode()),
            rest,
        )

    def end(self, choices: Sequence[Choice]) -> bytes:
        """The usage event, if it was asked for, and `[DONE]`."""
        if not self._include_usage:
            return DONE
        extra: dict[str, Any] = {
            "usage": self._usage(choices, self._cache_details(choices)),
            "system_fingerprint": FINGERPRINT,
        }
        if self._context.timing and len(choices) == 1:
            extra["metrics"] = timing_metrics(choices[0])
        return b"%b],%b\n\n%b" % (self._chunk_head, msgspec.json.encode(extra)[1:], DONE)

    def unary(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The whole answer as one body."""
        details = self._cache_details(choices)
        usage = self._usage(choices, details and details | {"multimodal_tokens": None})
        timed = self._context.timing and len(choices) == 1
        return {
            **self._head(self.object_name),
            "choices": [self._unary_choice(choice) for choice in choices],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage and usage | {"completion_tokens_details": None},
            **self._unary_tail(),
            "metrics": timing_metrics(choices[0]) | {"speculative_decoding": None} if timed else None,
        }

    def _head(self, name: str) -> dict[str, Any]:
        context = self._context
        return {"id": context.id, "object": name, "created": context.created, "model": context.model}

    def _usage(self, choices: Sequence[Choice], details: dict[str, Any] | None) -> dict[str, Any] | None:
        lie = self._context.usage_lie
        if lie is UsageLie.MISSING:
            return None
        usage = Usage(choices, self._ask.n)
        completion = usage.completion_tokens if lie is UsageLie.NONE else 3 * usage.completion_tokens + 1
        return {
            "prompt_tokens": usage.prompt_tokens,
            "total_tokens": usage.prompt_tokens + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": details,
        }

    def _usage_so_far(self, choice: Choice) -> bytes:
        if not self._running_usage:
            return b""
        counts = (choice.prompt_tokens, choice.prompt_tokens + choice.emitted, choice.emitted)
        return b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % counts

    def _cache_details(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        if not self._context.cached_tokens:
            return None
        return {"cached_tokens": Usage(choices, self._ask.n).cached_tokens}

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

    def first(self, choice: Choice) -> bytes:
        """The role chunk."""
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        rest = b""
        if self._running_usage:
            rest = b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":0}' % (
                choice.prompt_tokens,
                choice.prompt_tokens,
            )
        rest += b',"prompt_token_ids":null,"prompt_text":null'
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

    def _cache_details(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        details = super()._cache_details(choices)
        return details and details | {
            "created_cache_tokens": Usage(choices, self._ask.n).created_cache_tokens
        }

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
