"""Reading a stream of server-sent events as it passes: pure, incremental, and never changing an event."""

import re
from typing import Annotated, Any, Final

import msgspec

# The usage event is far shorter; an event that is longer is passed on before its end has come.
MOST_HELD_BYTES: Final = 1 << 16
# An event ends with a blank line: two line ends, each LF or CRLF.
_ENDS: Final = (b"\n\n", b"\n\r\n")
_FIRST_END: Final = re.compile(rb"(?:\r?\n){2}")
_PIECES: Final = re.compile(rb"[\r\n]+|(?s:.+?)(?:(?:\r?\n){2}|\Z)")
_NEWLINES: Final = b"\r\n"
_FINISH: Final = re.compile(rb'"finish_reason":\s*"(\w+)"')

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] | None


class PromptDetails(msgspec.Struct, frozen=True):
    """`usage.prompt_tokens_details`."""

    cached_tokens: _Count = None


class Usage(msgspec.Struct, frozen=True):
    """Token counts as the engine reports them. `completion_tokens` includes reasoning."""

    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: PromptDetails | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the engine did not have to compute again."""
        details = self.prompt_tokens_details
        return details.cached_tokens if details else None


class _Choice(msgspec.Struct, frozen=True):
    finish_reason: str | None = None


class _EngineTimes(msgspec.Struct, frozen=True):
    queue_time_ms: float | None = None


class _RawAnswer(msgspec.Struct, frozen=True):
    choices: list[_Choice] | None = None
    metrics: _EngineTimes | None = None
    # A union with None would make msgspec forget that it is raw.
    usage: msgspec.Raw = msgspec.Raw(b"null")


class Answer(msgspec.Struct, frozen=True):
    """What Headway reads of an answer, unary or one event of a stream. `choices`: None where there is none.

    `engine_queue_ms`: the engine's own report of the wait for a slot (vLLM: --enable-per-request-metrics).
    """

    choices: int | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    engine_queue_ms: float | None = None


_ANSWER: Final = msgspec.json.Decoder(_RawAnswer)
_USAGE: Final = msgspec.json.Decoder(Usage | None, strict=False)
_ANYTHING: Final = msgspec.json.Decoder()


def decode_answer(raw: bytes) -> Answer:
    """Read an answer; what has another shape than expected is left out. Raises ValueError: it is no JSON."""
    try:
        answer = _decode_shape(raw)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    reasons = [choice.finish_reason for choice in answer.choices or () if choice.finish_reason]
    return Answer(
        choices=None if answer.choices is None else len(answer.choices),
        finish_reason=reasons[-1] if reasons else None,
        usage=_decode_usage(answer.usage),
        engine_queue_ms=answer.metrics.queue_time_ms if answer.metrics else None,
    )


def _decode_shape(raw: bytes) -> _RawAnswer:
    try:
        return _ANSWER.decode(raw)
    except msgspec.ValidationError:
        _ANYTHING.decode(raw)
        return _RawAnswer()


def _decode_usage(raw: msgspec.Raw) -> Usage | None:
    try:
        usage: Usage | None = _USAGE.decode(raw)
    except msgspec.ValidationError:
        # An engine that counts nonsense has not counted.
        return None
    return usage


class StreamObserver:
    """Watches a stream for usage and the finish reason, and takes out the usage event that we asked for.

    `feed` returns what the client gets now: all events that are whole, less the usage event if `drop_usage`.
    An unfinished event is kept back, so that whatever follows begins on a line of its own; one longer than
    `MOST_HELD_BYTES` is passed on unread.
    """

    def __init__(self, *, drop_usage: bool) -> None:
        self._drop_usage = drop_usage
        self._held = b""
        self.overlong = False
        """Whether the last byte that went out is inside an event."""
        self.begun = False
        """Whether the first event is whole, or longer than any that we read."""
        self.failed = False
        """Whether the engine has put an error into the stream."""
        self.usage: Usage | None = None
        self.engine_queue_ms: float | None = None
        self.finish_reason: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take the bytes that came; give the bytes to send on (possibly none)."""
        data = self._held + chunk if self._held else chunk
        if self.overlong:
            return self._feed_overlong(data)
        if data.endswith(_ENDS):
            self._held = b""
            return self._observe(data)
        end = _last_end(data)
        self._held = data[end:]
        kept = self._observe(data[:end]) if end else b""
        return kept + self._release_overlong() if len(self._held) > MOST_HELD_BYTES else kept

    def close(self) -> bytes:
        """The stream has ended; give what was kept back."""
        rest, self._held = self._held, b""
        return self._observe(rest) if rest else b""

    def _feed_overlong(self, data: bytes) -> bytes:
        end = _FIRST_END.search(data)
        if end is None:
            self._held = data
            return self._release_overlong()
        self.overlong = False
        self._held = b""
        return data[: end.end()] + self.feed(data[end.end() :])

    def _release_overlong(self) -> bytes:
        """Give up the unfinished event, but for newlines that may turn out to be its end."""
        self.overlong = self.begun = True
        given = self._held.rstrip(_NEWLINES)
        self._held = self._held[len(given) :]
        return given

    def _observe(self, events: bytes) -> bytes:
        self.begun = self.begun or bool(events.strip(_NEWLINES))
        match = _FINISH.search(events)
        if match:
            self.finish_reason = match.group(1).decode()
        if b'"usage"' not in events and b'"error"' not in events:
            return events
        return b"".join(piece for piece in _PIECES.findall(events) if not self._take(piece))

    def _take(self, event: bytes) -> bool:
        """Note usage or an error in an event; say whether it is the event to leave out."""
        if error_in(event):
            self.failed = True
        payload = data_of(event)
        if payload is None or b'"usage"' not in payload:
            return False
        try:
            answer = decode_answer(payload)
        except ValueError:
            # Not ours to judge: the client gets it as it is.
            return False
        if answer.usage is None:
            return False
        self.usage = answer.usage
        self.engine_queue_ms = answer.engine_queue_ms
        return self._drop_usage and answer.choices == 0


def _last_end(data: bytes) -> int:
    """Where the last whole event of `data` ends; 0 where there is none."""
    return max((at + len(end) for end in _ENDS if (at := data.rfind(end)) >= 0), default=0)


def data_of(event: bytes) -> bytes | None:
    """The payload of one event's `data:` lines; None for comments and other fields."""
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def error_in(event: bytes) -> tuple[str, int | None] | None:
    """The message and HTTP status of an error event; None for any other event."""
    payload = data_of(event)
    if payload is None or b'"error"' not in payload:
        return None
    try:
        document = _ANYTHING.decode(payload)
    except (ValueError, RecursionError):
        return None
    error = document.get("error") if isinstance(document, dict) else None
    return None if error is None else (_message_of(error), _status_of(error))


def leading_error(events: bytes) -> tuple[str, int | None] | None:
    """What `error_in` says of the first event that carries data."""
    first = next((piece for piece in _PIECES.findall(events) if data_of(piece) is not None), b"")
    return error_in(first)


def _message_of(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else "the engine gave no reason"


def _status_of(error: Any) -> int | None:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else None
