"""Just enough of HTTP/1.1 to follow a message with little work, for load generator and canned engine."""

from typing import Final

_HEAD_END: Final = b"\r\n\r\n"
_EVENT_END: Final = b"\n\n"


class HttpError(Exception):
    """The other side did not send what a benchmark can count; the message says what came instead."""


def content_length(head: bytes) -> int | None:
    """The declared length of a message's body; None where it declares none. `head` in lower case."""
    _, found, rest = head.partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else None


class AnswerReader:
    """Follows one answer through the pieces in which it arrives.

    `status` is set when the head is complete; `events` counts server-sent events, `body_bytes` the body.
    """

    def __init__(self, *, counts_events: bool) -> None:
        self._counts_events = counts_events
        self._pending = b""
        self._left: int | None = None
        self._in_body = False
        self._last_byte = b""
        self.status = 0
        self.events = 0
        self.body_bytes = 0

    def feed(self, data: bytes) -> bool:
        """Take the bytes that came; say whether the answer is complete. Raises HttpError where it is none."""
        if not self._in_body:
            head, found, data = (self._pending + data).partition(_HEAD_END)
            if not found:
                self._pending = head
                return False
            self._pending = b""
            self._read_head(head)
        if self._left is None:
            return self._feed_chunked(data)
        self._take(data)
        self._left -= len(data)
        if self._left < 0:
            raise HttpError(f"{-self._left} bytes more than the declared length")
        return self._left == 0

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 "):
            raise HttpError(f"not an HTTP/1.1 answer: {head[:80]!r}")
        self.status = int(head[9:12])
        lower = head.lower()
        self._left = content_length(lower)
        if self._left is None and b"\r\ntransfer-encoding: chunked" not in lower:
            raise HttpError("an answer with neither a length nor chunks")
        self._in_body = True

    def _feed_chunked(self, data: bytes) -> bool:
        """Take whole chunks; the rest waits for its end, which is quick as long as chunks are small."""
        data = self._pending + data
        position = 0
        while (size_end := data.find(b"\r\n", position)) >= 0:
            size = int(data[position:size_end], 16)
            start = size_end + 2
            if len(data) < start + size + 2:
                break
            if size == 0:
                return True
            self._take(data[start : start + size])
            position = start + size + 2
        self._pending = data[position:]
        return False

    def _take(self, payload: bytes) -> None:
        self.body_bytes += len(payload)
        if self._counts_events and payload:
            self.events += (self._last_byte + payload).count(_EVENT_END)
            self._last_byte = payload[-1:]
