"""The engines' ids of the openings that a query asks about: learned in the background, once per model."""

import asyncio
import logging
from typing import Final

import msgspec
from multidict import CIMultiDict

from predictor.self_query import ENDS, OPENINGS
from proxy.engines.registry import Engines
from proxy.errors import HeadwayError
from proxy.upstream import Upstream

_LOG: Final = logging.getLogger("headway.asking")
_LONGEST_ANSWER: Final = 1 << 20


class _Tokens(msgspec.Struct):
    tokens: list[int]


class Vocabulary:
    """Token ids by engine; asked for at the first need."""

    def __init__(self, engines: Engines, upstream: Upstream, api_key: str | None) -> None:
        self._engines = engines
        self._upstream = upstream
        self._api_key = api_key
        self._known: dict[tuple[str, str], tuple[int, ...]] = {}
        self._asking: asyncio.Task[None] | None = None

    def of(self, engine: str) -> tuple[int, ...]:
        """The ids that are known now; empty while they are asked for, and for engines that tell none."""
        facts = self._engines.facts(engine)
        if facts is None or not facts.models:
            return ()
        model = facts.models[0].id
        known = self._known.get((engine, model))
        if known is None and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask(engine, model))
        return known or ()

    def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self, engine: str, model: str) -> None:
        self._known[engine, model] = await ask_token_ids(self._upstream, engine, model, self._api_key)


async def ask_token_ids(upstream: Upstream, engine: str, model: str, api_key: str | None) -> tuple[int, ...]:
    """The ids of the openings and ends that are one token each; what was found so far where the engine fails."""
    found: list[int] = []
    try:
        for text in (*OPENINGS, *ENDS):
            body = msgspec.json.encode({"model": model, "prompt": text, "add_special_tokens": False})
            tokens = await _tokens(upstream, engine, api_key, body)
            found += tokens if len(tokens) == 1 else []
    except (HeadwayError, msgspec.DecodeError, ValueError) as error:
        _LOG.info("engine %s does not tell its tokens, its likeliest will do: %s", engine, error)
    return tuple(found)


async def _tokens(upstream: Upstream, engine: str, api_key: str | None, body: bytes) -> list[int]:
    headers = CIMultiDict({"Content-Type": "application/json"})
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    answer = await upstream.open(engine, "POST", "/tokenize", headers, body)
    whole = b""
    try:
        while len(whole) < _LONGEST_ANSWER and (chunk := await upstream.read(answer, engine)):
            whole += chunk
    finally:
        answer.close()
    return msgspec.json.decode(whole, type=_Tokens).tokens if answer.status == 200 else []
