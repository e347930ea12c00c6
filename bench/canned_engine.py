"""An engine that costs next to nothing: every prompt gets the same prepared bytes, in vLLM's shapes.

The model named in a request sets the pace of its stream: `canned-50` gives 50 chunks a second. All streams of
a pace advance together, as the sequences of a batch do.
"""

import argparse
import asyncio
import sys
from functools import cache
from typing import Final, cast

import msgspec
import uvloop

from bench.http_reading import content_length

PACES: Final = (50, 500)
_CHUNKS: Final = 16
_USAGE: Final = {"prompt_tokens": 27, "total_tokens": 43, "completion_tokens": 16}
_IDENTITY: Final = {"id": "chatcmpl-canned", "created": 1760000000}
_TEXT: Final = "The answer is canned, so that all the time spent is somebody else's."


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct):
    model: str = ""
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: _StreamOptions | None = None

    @property
    def chunks(self) -> int:
        """How many the stream has; some proxies rename the one limit to the other."""
        return self.max_tokens or self.max_completion_tokens or _CHUNKS


_BODY: Final = msgspec.json.Decoder(_Body)


def answer(document: object, status: str = "200 OK") -> bytes:
    """A whole HTTP answer with a JSON body."""
    body = msgspec.json.encode(document)
    return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        status.encode(),
        len(body),
        body,
    )


def _unary() -> bytes:
    message = {"role": "assistant", "content": _TEXT, "refusal": None, "reasoning": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return answer(_IDENTITY | {"object": "chat.completion", "choices": [choice], "usage": _USAGE})


_PAGES: Final = {
    b"/health": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"/version": answer({"version": "0.32.0"}),
    b"/v1/models": answer(
        {"object": "list", "data": [{"id": f"canned-{pace}", "object": "model"} for pace in PACES]}
    ),
}
_NOT_FOUND: Final = answer({"detail": "Not Found"}, "404 Not Found")
_NO_LENGTH: Final = answer({"detail": "send a Content-Length"}, "411 Length Required")
_UNARY: Final = _unary()
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _event(model: str, choices: list[object], **more: object) -> bytes:
    document = _IDENTITY | {"object": "chat.completion.chunk", "model": model, "choices": choices} | more
    return _chunk(b"data: " + msgspec.json.encode(document) + b"\n\n")


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


class Script(msgspec.Struct, frozen=True):
    """The bytes of a stream: its `first` event, every `middle` one, the `last` one, and all that follows."""

    first: bytes
    middle: bytes
    last: bytes
    end: bytes
    end_with_usage: bytes


@cache
def script(model: str) -> Script:
    """What a stream of `model` consists of."""

    def choice(delta: dict[str, str], finish_reason: str | None) -> list[object]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]

    done = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return Script(
        first=_event(model, choice({"role": "assistant", "content": ""}, None)),
        middle=_event(model, choice({"content": " word"}, None)),
        last=_event(model, choice({"content": ""}, "stop")),
        end=done,
        end_with_usage=_event(model, [], usage=_USAGE) + done,
    )


class Ticker:
    """Advances every stream of one pace at once, on a fixed grid of times."""

    def __init__(self, pace: int) -> None:
        self._interval_s = 1.0 / pace
        self._streams: set[Connection] = set()
        self._running = False
        self._next_s = 0.0

    def add(self, stream: "Connection") -> None:
        """Let a stream take part from the next tick on."""
        self._streams.add(stream)
        if not self._running:
            self._running = True
            self._next_s = asyncio.get_running_loop().time()
            self._schedule()

    def discard(self, stream: "Connection") -> None:
        """Leave a stream out from now on."""
        self._streams.discard(stream)

    def _schedule(self) -> None:
        self._next_s += self._interval_s
        asyncio.get_running_loop().call_at(self._next_s, self._tick)

    def _tick(self) -> None:
        self._streams = {stream for stream in self._streams if stream.advance()}
        self._running = bool(self._streams)
        if self._running:
            self._schedule()


class Connection(asyncio.Protocol):
    """One connection: a request at a time, no pipelining."""

    def __init__(self, tickers: dict[str, Ticker]) -> None:
        self._tickers = tickers
        self._ticker: Ticker | None = None
        self._received = bytearray()
        self._needed = 0
        self._chunks_left = 0
        self._script = script("")
        self._end = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self._ticker is not None:
            self._ticker.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) < self._needed:
            return
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[: end + 2]).lower()
        self._needed = end + 4 + (content_length(head) or 0)
        if len(self._received) < self._needed:
            return
        body = bytes(self._received[end + 4 :])
        self._received.clear()
        self._needed = 0
        self._transport.write(self._answer(head, body))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"get "):
            return _PAGES.get(head.split(b" ", 2)[1], _NOT_FOUND)
        if b"\r\ncontent-length:" not in head:
            return _NO_LENGTH
        wanted = _BODY.decode(body)
        return self._begin_stream(wanted) if wanted.stream else _UNARY

    def _begin_stream(self, wanted: _Body) -> bytes:
        self._ticker = self._tickers[wanted.model]
        self._script = script(wanted.model)
        self._chunks_left = wanted.chunks - 1
        with_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
        self._end = self._script.end_with_usage if with_usage else self._script.end
        self._ticker.add(self)
        return _STREAM_HEAD + self._script.first

    def advance(self) -> bool:
        """Write the next chunk; say whether more are to come."""
        self._chunks_left -= 1
        if self._chunks_left > 0:
            self._transport.write(self._script.middle)
            return True
        self._transport.write(self._script.last + self._end)
        return False


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until killed."""
    tickers = {f"canned-{pace}": Ticker(pace) for pace in PACES}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(tickers), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> int:
    """Run the engine; returns the exit status."""
    parser = argparse.ArgumentParser(description="Serve canned answers in vLLM's shapes on 127.0.0.1.")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
