"""What an engine's answer says of itself, whatever its API: tokens, how it ended, errors. Pure."""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final

import msgspec

from predictor.records import CUT

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] | None
# Reasons that are no end of an answer but its failure.
FAILED: Final = frozenset({"abort", "error", "failed", "cancelled"})


def reason_of(reasons: Iterable[str | None]) -> str | None:
    """Why several answers to one request ended: a failure or a cut of one is told before the others' good ends."""
    told = [reason for reason in reasons if reason]
    return next(
        (reason for kind in (FAILED, CUT) for reason in told if reason in kind), told[-1] if told else None
    )


class PromptDetails(msgspec.Struct, frozen=True):
    """`usage.prompt_tokens_details`."""

    cached_tokens: Count = None


class Usage(msgspec.Struct, frozen=True):
    """Token counts as the engine reports them. `completion_tokens` includes reasoning."""

    prompt_tokens: Count = None
    completion_tokens: Count = None
    prompt_tokens_details: PromptDetails | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the engine did not have to compute again."""
        details = self.prompt_tokens_details
        return details.cached_tokens if details else None


class Answer(msgspec.Struct, frozen=True):
    """What Headway reads of an answer, unary or one event of a stream. `choices`: None where there is none.

    `engine_queue_ms`: the engine's own report of the wait for a slot (vLLM: --enable-per-request-metrics).
    """

    choices: int | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    engine_queue_ms: float | None = None


class Dialect(msgspec.Struct, frozen=True):
    """How one API's answers are read.

    `telling` matches events worth decoding, `begins` the first one that carries something the model said,
    `heralds` those that come with the first word, or with an error in its place: nothing is known before the
    next one. `sums`: each choice reports tokens of its own, at its end.
    """

    decode: Callable[[bytes], Answer]
    telling: re.Pattern[bytes]
    begins: re.Pattern[bytes]
    heralds: re.Pattern[bytes] | None = None
    sums: bool = False

    def is_herald(self, payload: bytes) -> bool:
        """Whether an event only announces the next one."""
        return self.heralds is not None and self.heralds.search(payload) is not None

    def merge(self, before: Usage | None, now: Usage) -> Usage:
        """The usage of a stream so far and of one more event."""
        if before is None:
            return now
        pick = _sum if self.sums else _newer
        cached = pick(before.cached_tokens, now.cached_tokens)
        return Usage(
            pick(before.prompt_tokens, now.prompt_tokens),
            pick(before.completion_tokens, now.completion_tokens),
            None if cached is None else PromptDetails(cached),
        )


_JSON: Final = msgspec.json.Decoder()


def error_in(payload: bytes) -> tuple[str, int | None] | None:
    """The message and HTTP status of an error object; None for anything else, JSON or not."""
    if b'"error"' not in payload:
        return None
    try:
        document = _JSON.decode(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    if error is None and document.get("type") == "error":
        error = document
    return None if error is None else (_message_of(error), _status_of(error))


def _newer(before: int | None, now: int | None) -> int | None:
    return before if now is None else now


def _sum(before: int | None, now: int | None) -> int | None:
    return before if now is None else now + (before or 0)


def _message_of(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else "the engine gave no reason"


def _status_of(error: Any) -> int | None:
    """An OpenAI error carries its status as `code`, an Anthropic one says it by its type."""
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    if isinstance(code, int) and 400 <= code <= 599:
        return code
    kind = error.get("type")
    return _ANTHROPIC_STATUS.get(kind) if isinstance(kind, str) else None


# 529 is Anthropic's own; 503 is what engines say when they are full.
_ANTHROPIC_STATUS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 503,
}
