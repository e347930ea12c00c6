"""Reading a stream of server-sent events as it passes: pure, incremental, and never changing an event."""

import re
from typing import Final

from predictor.request import Api
from proxy.answers import FAILED, Usage, error_in, reason_of
from proxy.dialects import DIALECTS

# The usage event is far shorter; an event that is longer is passed on before its end has come.
MOST_HELD_BYTES: Final = 1 << 16
# An event ends with a blank line: two line ends, each LF or CRLF.
_ENDS: Final = (b"\n\n", b"\n\r\n")
_FIRST_END: Final = re.compile(rb"(?:\r?\n){2}")
_PIECES: Final = re.compile(rb"[\r\n]+|(?s:.+?)(?:(?:\r?\n){2}|\Z)")
_NEWLINES: Final = b"\r\n"


class StreamObserver:
    """Watches a stream for usage and the finish reason, and takes out the usage event that we asked for.

    `feed` returns what the client gets now: all events that are whole, less the usage event if `drop_usage`.
    An unfinished event is kept back, so that whatever follows begins on a line of its own; one longer than
    `MOST_HELD_BYTES` is passed on unread.
    """

    def __init__(self, *, drop_usage: bool, api: Api = Api.CHAT) -> None:
        self._drop_usage = drop_usage
        self._dialect = DIALECTS[api]
        self._held = b""
        self.overlong = False
        """Whether the last byte that went out is inside an event."""
        self.begun = False
        """Whether the first event but heralds is whole, or longer than any that we read."""
        self.answering = False
        """Whether the model has said something; comments and announcements come earlier."""
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
        self.overlong = self.begun = self.answering = True
        given = self._held.rstrip(_NEWLINES)
        self._held = self._held[len(given) :]
        return given

    def _observe(self, events: bytes) -> bytes:
        self.begun = self.begun or self._begins(events)
        self.answering = self.answering or self._dialect.begins.search(events) is not None
        if not self._dialect.telling.search(events):
            return events
        return b"".join(piece for piece in _PIECES.findall(events) if not self._take(piece))

    def _begins(self, events: bytes) -> bool:
        if self._dialect.heralds is None:
            return bool(events.strip(_NEWLINES))
        pieces = (piece for piece in _PIECES.findall(events) if piece.strip(_NEWLINES))
        return any(not self._dialect.is_herald(data_of(piece) or b"") for piece in pieces)

    def _take(self, event: bytes) -> bool:
        """Note what an event tells of the answer; say whether it is the one to leave out."""
        payload = data_of(event)
        if payload is None or not self._dialect.telling.search(payload):
            return False
        try:
            answer = self._dialect.decode(payload)
        except ValueError:
            # Not ours to judge: the client gets it as it is.
            return False
        self.finish_reason = reason_of((self.finish_reason, answer.finish_reason))
        self.failed = self.failed or self.finish_reason in FAILED or error_in(payload) is not None
        if answer.usage is None:
            return False
        self.usage = self._dialect.merge(self.usage, answer.usage)
        self.engine_queue_ms = answer.engine_queue_ms
        return self._drop_usage and answer.choices == 0


def _last_end(data: bytes) -> int:
    """Where the last whole event of `data` ends; 0 where there is none."""
    return max((at + len(end) for end in _ENDS if (at := data.rfind(end)) >= 0), default=0)


def data_of(event: bytes) -> bytes | None:
    """The payload of one event's `data:` lines; None for comments and other fields."""
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def leading_error(events: bytes, api: Api = Api.CHAT) -> tuple[str, int | None] | None:
    """Message and HTTP status where the first event that tells something is an error; None otherwise."""
    payloads = (data_of(piece) for piece in _PIECES.findall(events))
    telling = (one for one in payloads if one is not None and not DIALECTS[api].is_herald(one))
    return error_in(next(telling, b""))
