"""An engine that answers with whatever bytes a test wants, for faults that no HTTP server would commit."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from wire import HEAD_END

JSON = "Content-Type: application/json"
EVENTS = "Content-Type: text/event-stream; charset=utf-8"

_PROBED = ("/health", "/ready", "/version", "/v1/models", "/server_info", "/metrics")

Script = Callable[["Call"], Awaitable[None]]


class Call:
    """One request that has come in whole, and the way to answer it."""

    def __init__(self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.head = head
        self.body = body
        self._reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Send one HTTP chunk."""
        await self.send(chunk(data))

    async def closed(self) -> None:
        """Wait until the proxy has closed the connection."""
        with contextlib.suppress(OSError):
            while await self._reader.read(1 << 16):
                pass

    def reset(self) -> None:
        """Break the connection at once."""
        self.writer.transport.abort()


class ScriptedEngine:
    """Answers what a proxy asks an engine by itself, as a vLLM without models; everything else by the script.

    The connection ends with the script.
    """

    def __init__(self, script: Script | bytes) -> None:
        self._script = script if callable(script) else _sends(script)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.calls: list[Call] = []
        self.healthy = True

    @property
    def url(self) -> str:
        """The base URL."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def __aenter__(self) -> "ScriptedEngine":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=4096)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(HEAD_END)
        asked = next((path for path in _PROBED if head.startswith(f"GET {path} ".encode())), None)
        # The tests' own requests say what they hold.
        if asked is not None and b"\r\nContent-Type:" not in head:
            said = b"vllm:num_requests_running 0.0\n" if asked == "/metrics" else b"{}"
            writer.write(reply(said, status="200 OK" if self.healthy else "503 Service Unavailable"))
            return True
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b""
        call = Call(head, body, reader, writer)
        self.calls.append(call)
        await self._script(call)
        return False


def reply(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer with its length."""
    return head(f"Content-Length: {len(body)}", *headers, status=status) + body


def head(*headers: str, status: str = "200 OK") -> bytes:
    """A status line and headers, encoded as they are."""
    text = "\r\n".join((f"HTTP/1.1 {status}", *headers))
    return text.encode("utf-8", "surrogateescape") + HEAD_END


def stream_head(*headers: str) -> bytes:
    """The head of a chunked stream of events."""
    return head(EVENTS, "Transfer-Encoding: chunked", *headers)


def chunk(data: bytes) -> bytes:
    """One HTTP chunk; empty data is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(*events: bytes) -> bytes:
    """A whole stream, one event to a chunk."""
    return stream_head() + b"".join(map(chunk, (*events, b"")))


def _sends(data: bytes) -> Script:
    async def script(call: Call) -> None:
        await call.send(data)

    return script
