"""One exchange with an engine: made ready in its dialect, sent, and ended there when it ends here."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from predictor.request import RequestBody
from predictor.self_query import SelfQuery
from proxy.engine_answer import EngineAnswer
from proxy.engines.adapter import Abort, Outgoing, Turn
from proxy.engines.priorities import Priorities
from proxy.engines.registry import Engines
from proxy.errors import EngineRefused, HeadwayError
from proxy.exchange import Exchange
from proxy.headers import names_priority, to_engine
from proxy.ingress import target
from proxy.owners import Owner, Owners
from proxy.settings import Settings
from proxy.upstream import Upstream

_ABORT_TIMEOUT_S: Final = 5.0
# A query is one token long, and no request waits for it in the engine.
_BEFORE_ALL: Final = -1_000
_LONGEST_ANSWER: Final = 1 << 20


class Sender:
    """Sends scheduled requests to the engines that the scheduler chose."""

    def __init__(
        self,
        settings: Settings,
        engines: Engines,
        upstream: Upstream,
        owners: Owners,
        api_key: str | None,
    ) -> None:
        self._mode = settings.mode
        self._engines = engines
        self._upstream = upstream
        self._owners = owners
        self._api_key = api_key
        self._priorities = Priorities()
        # Numbers below any key: keys are microseconds since 1970.
        self._queries = itertools.count(1)
        self._aborts: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def sent(
        self, request: web.BaseRequest, raw: bytes, exchange: Exchange, *, pass_key: bool
    ) -> AsyncIterator[tuple[EngineAnswer, Outgoing]]:
        """The engine's answer, from its status line on; what is left of it is aborted at the block's end.

        `pass_key`: whether the client's key is the engine's.
        """
        assert exchange.replica is not None and exchange.key_us is not None and exchange.identity is not None
        identity, replica = exchange.identity, exchange.replica
        number = self._priorities.take(exchange.key_us, identity.service.tier)
        try:
            outgoing = self._outgoing(request, raw, exchange, Turn(number, identity.service.tier))
            exchange.rank = outgoing.rank
            if outgoing.stored_as is not None:
                self._owners.remember(outgoing.stored_as, Owner(identity.key, replica))
            headers = to_engine(
                request.headers,
                outgoing.headers,
                self._api_key,
                pass_key=pass_key,
                may_set_priority=identity.may_set_priority,
            )
            if exchange.span is not None:
                exchange.span.lead(headers)
            path = target(request, exchange.api.value)
            try:
                engine = await self._upstream.open(replica, "POST", path, headers, outgoing.body)
                try:
                    yield engine, outgoing
                finally:
                    # Closing, not releasing: an unread rest means that the engine must abort.
                    engine.close()
            finally:
                if exchange.done_us is None and outgoing.abort is not None:
                    self._abort_soon(replica, outgoing.abort)
        finally:
            self._priorities.give_back(number)

    async def ask(
        self, request: web.BaseRequest, query: SelfQuery, replica: str, exchange: Exchange, *, pass_key: bool
    ) -> bytes:
        """The answer to a query about the request of `exchange`, sent before everything that waits in the engine.

        Raises a HeadwayError where there is none, ValueError where it is none. Cancelled, it is aborted at the engine.
        """
        if query.render is not None:
            headers = to_engine(request.headers, {}, self._api_key, pass_key=pass_key)
            rendered = await self._whole(replica, "/tokenize", headers, query.render, exchange)
            query = query.with_tokens(rendered)
        turn = Turn(next(self._queries), _BEFORE_ALL)
        adapter = self._engines.adapter(replica)
        outgoing = adapter.outgoing(query.api, query.body, RequestBody(), turn, uuid.uuid4().hex)
        headers = to_engine(request.headers, outgoing.headers, self._api_key, pass_key=pass_key)
        return await self._whole(replica, query.api.value, headers, outgoing.body, exchange)

    async def _whole(
        self, replica: str, path: str, headers: CIMultiDict[str], body: bytes, exchange: Exchange
    ) -> bytes:
        """What the engine answers; read whole, since it is for us."""
        headers["Content-Type"] = "application/json"
        if exchange.span is not None:
            exchange.span.lead(headers)
        engine = await self._upstream.open(replica, "POST", path, headers, body)
        whole = b""
        try:
            while len(whole) < _LONGEST_ANSWER and (chunk := await self._upstream.read(engine, replica)):
                whole += chunk
        finally:
            engine.close()
        if engine.status != 200:
            raise EngineRefused(f"The engine refused a query: {whole[:200]!r}", status=engine.status)
        return whole

    def _outgoing(self, request: web.BaseRequest, raw: bytes, exchange: Exchange, turn: Turn) -> Outgoing:
        assert exchange.replica is not None and exchange.identity is not None
        body = exchange.body or RequestBody()
        says_itself = exchange.identity.may_set_priority and (
            body.priority is not None or names_priority(request.headers)
        )
        adapter = self._engines.adapter(exchange.replica)
        ours = None if self._mode == "hold" or says_itself else turn
        exchange.attempts += 1
        # SGLang aborts by id, and for an attempt that it refused it may do so late: the next one needs another.
        request_id = exchange.request_id if exchange.attempts == 1 else uuid.uuid4().hex
        return adapter.outgoing(exchange.api, raw, body, ours, request_id)

    def _abort_soon(self, base: str, abort: Abort) -> None:
        """In a task of its own: the request's task may just be cancelled."""
        task = asyncio.get_running_loop().create_task(self._abort(base, abort))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _abort(self, base: str, abort: Abort) -> None:
        headers = CIMultiDict({"Content-Type": "application/json"})
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key}"
        try:
            async with asyncio.timeout(_ABORT_TIMEOUT_S):
                engine = await self._upstream.open(base, "POST", abort.path, headers, abort.body)
                engine.close()
        except (HeadwayError, TimeoutError):
            # The connection is closed: the engine finds out by itself, only later.
            return
