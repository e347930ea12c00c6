"""Reading a stream of server-sent events as it passes: pure, incremental, and never changing an event."""

import re
from typing import Final

import msgspec

EVENT_END: Final = b"\n\n"
_CRLF_EVENT_END: Final = b"\r\n\r\n"
_FINISH: Final = re.compile(rb'"finish_reason":\s*"(\w+)"')


class PromptDetails(msgspec.Struct, frozen=True):
    """`usage.prompt_tokens_details`."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Token counts as the engine reports them. `completion_tokens` includes reasoning."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the engine did not have to compute again."""
        details = self.prompt_tokens_details
        return details.cached_tokens if details else None


class _Choice(msgspec.Struct, frozen=True):
    finish_reason: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """The fields that Headway reads of an answer, unary or one event of a stream."""

    choices: list[_Choice] | None = None
    usage: Usage | None = None

    @property
    def finish_reason(self) -> str | None:
        """The last choice's reason to stop."""
        reasons = [choice.finish_reason for choice in self.choices or () if choice.finish_reason]
        return reasons[-1] if reasons else None


_ANSWER: Final = msgspec.json.Decoder(Answer, strict=False)


def decode_answer(raw: bytes) -> Answer:
    """Read an answer's JSON; raises msgspec.DecodeError where it is none."""
    return _ANSWER.decode(raw)


class StreamObserver:
    """Watches a stream for usage and the finish reason, and takes out the usage event that we asked for.

    `feed` returns what the client gets now. Without `drop_usage` that is the chunk itself; with it an
    incomplete event is kept back until its end has come, and the usage event never goes out.
    """

    def __init__(self, *, drop_usage: bool) -> None:
        self._drop_usage = drop_usage
        self._end = EVENT_END
        self._carry = b""
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.events = 0

    def feed(self, chunk: bytes) -> bytes:
        """Take the bytes that came; give the bytes to send on (possibly none)."""
        data = self._carry + chunk if self._carry else chunk
        if not self.events and _CRLF_EVENT_END in data:
            self._end = _CRLF_EVENT_END
        if data.endswith(self._end):
            complete, self._carry = data, b""
        else:
            complete, end, rest = data.rpartition(self._end)
            complete, self._carry = complete + end, rest
        kept = self._observe(complete) if complete else b""
        return kept if self._drop_usage else chunk

    def close(self) -> bytes:
        """The stream has ended; give what was kept back."""
        rest, self._carry = self._carry, b""
        if rest:
            self._observe(rest)
        return rest if self._drop_usage else b""

    @property
    def saw_an_event(self) -> bool:
        """Whether at least one complete event has come."""
        return self.events > 0

    def _observe(self, events: bytes) -> bytes:
        self.events += events.count(self._end)
        match = _FINISH.search(events)
        if match:
            self.finish_reason = match.group(1).decode()
        if b'"usage"' not in events:
            return events
        parts = [event for event in events.split(self._end) if event]
        kept = [event for event in parts if not self._take_usage(event)]
        return events if len(kept) == len(parts) else b"".join(event + self._end for event in kept)

    def _take_usage(self, event: bytes) -> bool:
        """Note the usage in an event; say whether it is the event to leave out."""
        payload = data_of(event)
        if payload is None or b'"usage"' not in payload:
            return False
        try:
            answer = decode_answer(payload)
        except msgspec.DecodeError:
            # Not ours to judge: the client gets it as it is.
            return False
        if answer.usage is None:
            return False
        self.usage = answer.usage
        return self._drop_usage and answer.choices == []


def data_of(event: bytes) -> bytes | None:
    """The payload of one event's `data:` line; None for comments and other fields."""
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            return line[5:].strip()
    return None


class _ErrorDetail(msgspec.Struct, frozen=True):
    message: str = "the engine gave no reason"
    code: int | str | None = None


class _ErrorEvent(msgspec.Struct, frozen=True):
    error: _ErrorDetail | str | None = None


def error_in(event: bytes) -> tuple[str, int | None] | None:
    """The message and HTTP status of an error event; None for any other event."""
    payload = data_of(event)
    if payload is None or b'"error"' not in payload:
        return None
    try:
        error = msgspec.json.decode(payload, type=_ErrorEvent).error
    except msgspec.DecodeError:
        return None
    if error is None:
        return None
    if isinstance(error, str):
        return error, None
    status = error.code if isinstance(error.code, int) and 400 <= error.code <= 599 else None
    return error.message, status
