"""Reading HTTP/1.1 off recorded bytes: messages with their raw bytes, headers and de-chunked body."""

from collections.abc import Iterator
from typing import NamedTuple

HEAD_END = b"\r\n\r\n"


class Message(NamedTuple):
    """One HTTP message. `raw` is all of it, `payload` the body as it was framed, `body` without framing."""

    start: str
    headers: tuple[tuple[str, str], ...]
    raw: bytes
    payload: bytes
    body: bytes
    complete: bool

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.start.split(" ", 2)[1])

    @property
    def path(self) -> str:
        """The target of a request."""
        return self.start.split(" ", 2)[1]

    def header(self, name: str) -> str | None:
        """The first value of a header; None where it is absent."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def header_names(self) -> set[str]:
        """All names, in lower case."""
        return {key.lower() for key, _ in self.headers}


def dechunk(raw: bytes) -> tuple[bytes, int, bool]:
    """The content of a chunked body at the start of `raw`, the bytes it takes, whether its last chunk came."""
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = raw.find(b"\r\n", at)
        if line_end < 0:
            return b"".join(parts), len(raw), False
        size = int(raw[at:line_end].split(b";")[0], 16)
        begin, end = line_end + 2, line_end + 2 + size
        parts.append(raw[begin:end])
        if len(raw) < end + 2:
            return b"".join(parts), len(raw), False
        at = end + 2
        if size == 0:
            return b"".join(parts), at, True


def read_messages(raw: bytes, *, bodiless: bool = False) -> Iterator[Message]:
    """Every message of one direction of a connection; an unfinished last one is marked so.

    `bodiless`: requests, which have no body where no header announces one; a response's then goes on to the
    end of the connection.
    """
    while HEAD_END in raw:
        message = _read_one(raw, bodiless=bodiless)
        yield message
        raw = raw[len(message.raw) :]


def _read_one(raw: bytes, *, bodiless: bool) -> Message:
    head, _, rest = raw.partition(HEAD_END)
    start, *lines = head.decode("latin-1").split("\r\n")
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    fields = {name.lower(): value for name, value in headers}
    if "chunked" in fields.get("transfer-encoding", "").lower():
        body, length, complete = dechunk(rest)
    else:
        length = _plain_length(start, fields, rest, bodiless=bodiless)
        body, complete = rest[:length], len(rest) >= length
    size = len(head) + len(HEAD_END) + min(length, len(rest))
    return Message(start, headers, raw[:size], rest[:length], body, complete)


def _plain_length(start: str, fields: dict[str, str], rest: bytes, *, bodiless: bool) -> int:
    if "content-length" in fields:
        return int(fields["content-length"])
    no_body = bodiless or start.split(" ")[1] in ("100", "204", "304")
    return 0 if no_body else len(rest)
