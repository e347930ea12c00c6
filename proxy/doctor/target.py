"""The engine under examination, and how doctor speaks to it: as the proxy would."""

import asyncio
import itertools
import statistics
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from multidict import CIMultiDict

from predictor.request import Api, RequestBody, decode_body
from predictor.self_query import NoQuery, build_query
from proxy.answers import Answer, error_in
from proxy.asking.vocabulary import TokensUnknown, ask_token_ids
from proxy.dialects import decode_answer
from proxy.engines.adapter import EngineAdapter, Outgoing, Turn
from proxy.engines.facts import EngineFacts, Reply
from proxy.errors import HeadwayError
from proxy.sse import StreamObserver
from proxy.upstream import Upstream

_REQUEST_TIMEOUT_S: Final = 60.0
Body = dict[str, Any]


class Timed(msgspec.Struct, frozen=True):
    """One answer. Seconds on the monotonic clock; `first_s` None: the model said nothing.

    `gaps_s`: between the pieces of a stream.
    """

    status: int
    body: bytes
    answer: Answer
    sent_s: float
    first_s: float | None
    done_s: float
    gaps_s: tuple[float, ...] = ()
    rank: int | None = None

    @property
    def ok(self) -> bool:
        """Whether it is an answer and not a refusal."""
        return self.status == 200 and error_in(self.body) is None

    @property
    def step_s(self) -> float:
        """The median time between two pieces of a stream; 0 where there are none."""
        return statistics.median(self.gaps_s) if self.gaps_s else 0.0

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that came from the cache; None where the engine does not say."""
        return self.answer.usage.cached_tokens if self.answer.usage else None

    @property
    def prompt_tokens(self) -> int | None:
        """Prompt tokens as the engine counts them."""
        return self.answer.usage.prompt_tokens if self.answer.usage else None


class Target(msgspec.Struct, frozen=True):
    """One engine. `force`: go on though it may have other work."""

    upstream: Upstream
    url: str
    api_key: str | None
    facts: EngineFacts
    adapter: EngineAdapter
    model: str
    force: bool = False

    @property
    def context_tokens(self) -> int:
        """How long prompt and answer may be together; a careful guess where the engine does not say."""
        limits = [one.max_model_len for one in self.facts.models if one.id == self.model]
        return limits[0] if limits and limits[0] else 2048

    def new_id(self) -> str:
        """32 hexadecimal digits, never the same."""
        return uuid.uuid4().hex

    async def get(self, path: str) -> Reply:
        """GET a page; an empty reply where none comes."""
        try:
            status, body, _ = await self._exchange("GET", path, None)
        except (HeadwayError, TimeoutError):
            return Reply()
        return Reply(status, body)

    async def post(self, path: str, body: Body | bytes) -> Reply:
        """POST a document; an empty reply where none comes."""
        try:
            encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
            status, raw, _ = await self._exchange("POST", path, encoded)
        except (HeadwayError, TimeoutError):
            return Reply()
        return Reply(status, raw)

    async def chat(self, body: Body, turn: Turn | None = None) -> Timed:
        """A chat completion, made by the adapter as the proxy's are, streamed where `body` says so."""
        raw = msgspec.json.encode({"model": self.model, **body})
        outgoing = self.adapter.outgoing(Api.CHAT, raw, decode_body(raw), turn, self.new_id())
        return await self._send(Api.CHAT, outgoing, streamed=bool(body.get("stream")))

    async def ask_about(self, text: str, token_ids: Sequence[int]) -> Timed:
        """A self-prediction query about a prompt, by the proxy's steps. Raises ValueError where it is not rendered."""
        raw = msgspec.json.encode({"model": self.model, "messages": user(text)})
        query = build_query(raw, Api.CHAT, sglang=self.adapter.kind == "sglang", token_ids=token_ids)
        assert not isinstance(query, NoQuery), "a plain chat can be asked about"
        if query.render is not None:
            query = query.with_tokens((await self.post("/tokenize", query.render)).body)
        outgoing = self.adapter.outgoing(query.api, query.body, RequestBody(), None, self.new_id())
        return await self._send(query.api, outgoing, streamed=False)

    async def token_ids(self) -> tuple[int, ...]:
        """Of the openings that a query asks about; empty where the engine tells none in time."""
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                return await ask_token_ids(self.upstream, self.url, self.model, self.api_key)
        except (TimeoutError, TokensUnknown):
            return ()

    async def _send(self, api: Api, outgoing: Outgoing, *, streamed: bool) -> Timed:
        observer = StreamObserver(drop_usage=False, api=api)
        sent_s = time.monotonic()
        try:
            status, whole, pieces_s = await self._exchange(
                "POST", api, outgoing.body, outgoing.headers, observer
            )
        except (HeadwayError, TimeoutError) as error:
            nothing = msgspec.json.encode({"error": str(error)})
            return Timed(0, nothing, Answer(), sent_s, None, time.monotonic())
        answer = Answer(None, observer.finish_reason, observer.usage) if streamed else _unary(whole, api)
        gaps_s = tuple(later - earlier for earlier, later in itertools.pairwise(pieces_s))
        first_s = pieces_s[0] if pieces_s else None
        return Timed(status, whole, answer, sent_s, first_s, time.monotonic(), gaps_s, outgoing.rank)

    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        more: dict[str, str] | None = None,
        observer: StreamObserver | None = None,
    ) -> tuple[int, bytes, list[float]]:
        """Status, whole body, and when its pieces came, from the first on that carries an answer."""
        headers = CIMultiDict({"Accept-Encoding": "identity", **(more or {})})
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        whole, pieces_s = b"", []
        async with asyncio.timeout(_REQUEST_TIMEOUT_S):
            response = await self.upstream.open(self.url, method, path, headers, body)
            try:
                while chunk := await self.upstream.read(response, self.url):
                    whole += chunk
                    if observer is not None:
                        observer.feed(chunk)
                        if observer.answering:
                            pieces_s.append(time.monotonic())
            finally:
                response.close()
        return response.status, whole, pieces_s


def _unary(whole: bytes, api: Api) -> Answer:
    try:
        return decode_answer(whole, api)
    except ValueError:
        return Answer()


def user(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]
