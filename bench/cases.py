"""What is sent: bodies of three sizes, one at a time and many at once, whole answers and streams."""

from typing import Final

import msgspec

from bench.load import Load

SMALL_BYTES: Final = 200
MEDIUM_BYTES: Final = 8_000
LARGE_BYTES: Final = 20_000_000
_DONE_EVENTS: Final = 1


class Case(msgspec.Struct, frozen=True):
    """One way of asking. `rounds` in a full run; `waits_by_design`: arms that would hold most of it back."""

    name: str
    title: str
    load: Load
    rounds: int
    waits_by_design: tuple[str, ...] = ()


def chat_request(*, body_bytes: int, stream_model: str | None = None, chunks: int = 16) -> bytes:
    """A chat completion as it goes over the wire, its body `body_bytes` long; with a model, a stream.

    Raises ValueError where the body cannot be that short.
    """
    fields = {"model": stream_model or "canned-50", "max_tokens": chunks}
    if stream_model is not None:
        fields["stream"] = True

    def encode(content: str) -> bytes:
        return msgspec.json.encode({"messages": [{"role": "user", "content": content}], **fields})

    question = "Say in one sentence why the sky is blue. "
    room = body_bytes - len(encode(""))
    if room < 0:
        raise ValueError(f"{body_bytes} bytes cannot hold a chat request")
    body = encode((question * (room // len(question) + 1))[:room])
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        "User-Agent: headway-bench\r\nAuthorization: Bearer none\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def cases(*, quick: bool) -> list[Case]:
    """All cases; `quick` for a look in less than a minute, with wider spreads."""
    small = chat_request(body_bytes=SMALL_BYTES)
    seconds = 2 if quick else 4
    few = 3 if quick else 5
    return [
        Case("unary-1", "one at a time, 200 B", Load(small, 1, 200), 5 if quick else 20),
        Case(
            "unary-1-8k",
            "one at a time, 8 KB",
            Load(chat_request(body_bytes=MEDIUM_BYTES), 1, 200),
            few if quick else 10,
        ),
        Case("unary-1-20m", "one at a time, 20 MB", Load(chat_request(body_bytes=LARGE_BYTES), 1, 3), few),
        Case("unary-32", "32 at once, 200 B", Load(small, 32, 2_000), few if quick else 8),
        Case("stream-1", "one stream at a time, 16 chunks at 500/s", _streams("canned-500", 1, 15, 16), few),
        Case(
            "stream-400",
            f"400 streams, each {50 * seconds} chunks at 50/s",
            _streams("canned-50", 400, 400, 50 * seconds),
            2 if quick else 4,
            waits_by_design=("headway",),
        ),
    ]


def _streams(model: str, connections: int, count: int, chunks: int) -> Load:
    request = chat_request(body_bytes=SMALL_BYTES, stream_model=model, chunks=chunks)
    return Load(request, connections, count, events=chunks + _DONE_EVENTS)
