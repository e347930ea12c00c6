"""The way out: the engine's bytes to the client, observed as they pass."""

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from predictor.records import Outcome
from proxy.answers import FAILED, error_in
from proxy.client_side import BUFFERED_BYTES, cut, sent, sent_whole
from proxy.clock import Clock
from proxy.dialects import decode_answer
from proxy.engine_answer import EngineAnswer
from proxy.errors import EngineFull, EngineGarbage, EngineRefused, HeadwayError
from proxy.exchange import Exchange
from proxy.headers import to_client
from proxy.held_stream import HeldStream
from proxy.replies import error_event
from proxy.sse import StreamObserver, leading_error
from proxy.upstream import Upstream

# A unary answer up to this long is read whole, checked, and sent with its length; a longer one streams.
_WHOLE_BYTES: Final = 4 << 20
_JSON: Final = "application/json"
_EVENT_STREAM: Final = "text/event-stream"


class Relay:
    """Carries the engine's answer to one request to its client."""

    def __init__(
        self,
        upstream: Upstream,
        clock: Clock,
        request: web.BaseRequest,
        exchange: Exchange,
        *,
        engine_began: Callable[[], None],
        engine_done: Callable[[], None],
        is_full: Callable[[int, bytes], bool],
        client_timeout_s: float,
        held: HeldStream | None,
    ) -> None:
        """`engine_began` is called at the engine's first byte, `engine_done` as soon as it has sent its last.

        `is_full`: whether a refusal means that the engine's own queue is full. `client_timeout_s`: how long a
        client may take nothing while more is to be sent. `held`: the client's stream, which may be open already.
        """
        self._upstream = upstream
        self._clock = clock
        self._request = request
        self._exchange = exchange
        self._engine_began = engine_began
        self._engine_done = engine_done
        self._is_full = is_full
        self._client_timeout_s = client_timeout_s
        self._held = held

    async def answer(
        self, engine: EngineAnswer, ours: dict[str, str], *, drop_usage: bool
    ) -> web.StreamResponse:
        """Send the engine's answer, with the headers `ours` added.

        Raises a HeadwayError only while nothing of it has gone to the client, so that a clear error still can.
        """
        self._exchange.status = engine.status
        headers = to_client(engine.headers, ours)
        if engine.content_type == _EVENT_STREAM and engine.status == 200:
            observer = StreamObserver(drop_usage=drop_usage, api=self._exchange.api)
            return await self._stream(engine, headers, observer)
        return await self._unary(engine, headers)

    async def _unary(self, engine: EngineAnswer, headers: CIMultiDict[str]) -> web.StreamResponse:
        whole = b""
        while chunk := await self._read(engine):
            whole += chunk
            if engine.status == 200:
                self._note_first_byte()
            if len(whole) > _WHOLE_BYTES:
                await self._check_unopened(engine, whole)
                return await self._long(engine, headers, whole)
        if engine.status != 200:
            self._check_full(engine.status, whole)
        await self._check_unopened(engine, whole)
        self._check(engine, whole)
        if len(whole) > BUFFERED_BYTES:
            self._finish()
            long = web.StreamResponse(status=engine.status, reason=engine.reason, headers=headers)
            await sent_whole(self._request, long, whole, self._client_timeout_s)
            return long
        response = web.Response(body=whole, status=engine.status, reason=engine.reason, headers=headers)
        # Written into the socket's buffer before the next request is chosen and all is booked: that costs the
        # client's time, this the next one's a few microseconds.
        try:
            await response.prepare(self._request)
            await response.write_eof()
        finally:
            self._finish()
        return response

    async def _check_unopened(self, engine: EngineAnswer, whole: bytes) -> None:
        """Raise EngineRefused where the client's stream is open: what is no stream cannot follow in it."""
        if self._held is not None and await self._held.opened() is not None:
            said, status = error_in(whole) or (f"The engine sent no stream, but {engine.content_type}.", None)
            raise EngineRefused(said, status=status)

    def _check(self, engine: EngineAnswer, whole: bytes) -> None:
        """Read what the answer says of itself; raise EngineGarbage where a good status carries no JSON."""
        if engine.status != 200:
            self._exchange.end(Outcome.ENGINE_ERROR)
            return
        if engine.content_type != _JSON:
            raise EngineGarbage(f"The engine answered 200 with {engine.content_type}, not {_JSON}.")
        try:
            answer = decode_answer(whole, self._exchange.api)
        except ValueError as error:
            raise EngineGarbage(f"The engine answered 200 with broken JSON: {error}") from error
        self._exchange.usage = answer.usage
        self._exchange.engine_queue_ms = answer.engine_queue_ms
        self._exchange.finish_reason = answer.finish_reason
        self._exchange.end(Outcome.ENGINE_ERROR if answer.finish_reason in FAILED else Outcome.COMPLETED)

    def _check_full(self, status: int, said: bytes) -> None:
        """Raise EngineFull where the engine refused for its queue's length."""
        if self._is_full(status, said):
            # The refusal was its last word: there is nothing to abort.
            self._exchange.done_us = self._clock.now_us()
            raise EngineFull("The engine's own queue is full.")

    async def _long(self, engine: EngineAnswer, headers: CIMultiDict[str], head: bytes) -> web.StreamResponse:
        """A long unary answer goes on as it comes; its usage stays unknown."""
        response = await self._begin(engine, headers)
        await self._write(response, head)
        try:
            while chunk := await self._read(engine):
                await self._write(response, chunk)
        except HeadwayError as error:
            cut(self._request, self._exchange, error)
        self._finish()
        self._exchange.end(Outcome.COMPLETED if engine.status == 200 else Outcome.ENGINE_ERROR)
        await self._sent(response.write_eof(), 0)
        return response

    async def _stream(
        self, engine: EngineAnswer, headers: CIMultiDict[str], observer: StreamObserver
    ) -> web.StreamResponse:
        head = await self._first_event(engine, observer)
        response = await self._begin(engine, headers)
        try:
            await self._write(response, head)
            while chunk := await self._read(engine):
                if kept := self._observe(observer, chunk):
                    await self._write(response, kept)
        except HeadwayError as error:
            # An error that begins in mid-line would not be read as an event of its own.
            event = error_event(error, self._exchange.api)
            await self._write(response, b"\n\n"[: 2 * observer.overlong] + event)
            cut(self._request, self._exchange, error)
        finally:
            rest = observer.close()
            self._exchange.usage = observer.usage
            self._exchange.engine_queue_ms = observer.engine_queue_ms
            self._exchange.finish_reason = observer.finish_reason
        self._finish()
        self._exchange.end(Outcome.ENGINE_ERROR if observer.failed else Outcome.COMPLETED)
        await self._sent(response.write_eof(rest), len(rest))
        return response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        await sent(self._request, response.write(data), len(data), self._client_timeout_s)

    async def _sent(self, sending: Awaitable[None], size: int) -> None:
        await sent(self._request, sending, size, self._client_timeout_s)

    async def _first_event(self, engine: EngineAnswer, observer: StreamObserver) -> bytes:
        """Read up to the end of the first event, so that an engine's refusal can still become a status."""
        head = kept = b""
        while not observer.begun:
            chunk = await self._read(engine)
            if not chunk:
                break
            head += chunk
            kept += self._observe(observer, chunk)
        if not head:
            raise EngineGarbage("The engine ended its stream before the first event.")
        if refused := leading_error(head, self._exchange.api):
            message, status = refused
            self._check_full(status or EngineRefused.status, message.encode())
            raise EngineRefused(message, status=status)
        return kept

    async def _read(self, engine: EngineAnswer) -> bytes:
        return await self._upstream.read(engine, self._exchange.replica or "")

    def _observe(self, observer: StreamObserver, chunk: bytes) -> bytes:
        kept = observer.feed(chunk)
        if observer.answering:
            self._note_first_byte()
        return kept

    def _note_first_byte(self) -> None:
        if self._exchange.first_byte_us is None:
            self._exchange.first_byte_us = self._clock.now_us()
            self._engine_began()

    async def _begin(self, engine: EngineAnswer, headers: CIMultiDict[str]) -> web.StreamResponse:
        if self._held is not None and (opened := await self._held.opened()) is not None:
            return opened
        response = web.StreamResponse(status=engine.status, reason=engine.reason, headers=headers)
        await response.prepare(self._request)
        return response

    def _finish(self) -> None:
        self._exchange.done_us = self._clock.now_us()
        self._engine_done()
