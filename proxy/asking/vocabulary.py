"""The engines' ids of the openings that a query asks about: learned in the background, whole or not at all."""

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
_FIRST_WAIT_US: Final = 10_000_000
_LONGEST_WAIT_US: Final = 600_000_000


class _Tokens(msgspec.Struct):
    tokens: list[int]


class TokensUnknown(Exception):
    """An engine does not tell its tokens, or not all of them; the text says why."""


class _Lesson(msgspec.Struct, eq=False):
    """What is known of one engine's model. `ids`: None until all were told; `again_us`: not asked again before."""

    model: str
    ids: tuple[int, ...] | None = None
    asking: asyncio.Task[None] | None = None
    again_us: int = 0
    wait_us: int = _FIRST_WAIT_US
    reason: str = ""


class Vocabulary:
    """Token ids by engine; asked for at the first need, and again, ever more rarely, where an engine fails."""

    def __init__(self, engines: Engines, upstream: Upstream, api_key: str | None) -> None:
        self._engines = engines
        self._upstream = upstream
        self._api_key = api_key
        self._lessons: dict[str, _Lesson] = {}

    def of(self, engine: str, now_us: int) -> tuple[int, ...]:
        """The ids that are known now; empty while they are asked for, and for engines that tell none."""
        facts = self._engines.facts(engine)
        if facts is None or not facts.models:
            return ()
        lesson = self._lesson(engine, facts.models[0].id)
        if lesson.ids is None and lesson.asking is None and now_us >= lesson.again_us:
            lesson.again_us = now_us + lesson.wait_us
            lesson.wait_us = min(2 * lesson.wait_us, _LONGEST_WAIT_US)
            lesson.asking = asyncio.create_task(self._learn(engine, lesson))
        return lesson.ids or ()

    def forget(self, engine: str) -> None:
        """The engine has left, or is back and may be another."""
        lesson = self._lessons.pop(engine, None)
        if lesson is not None and lesson.asking is not None:
            lesson.asking.cancel()

    def close(self) -> None:
        """Stop asking."""
        for engine in list(self._lessons):
            self.forget(engine)

    def _lesson(self, engine: str, model: str) -> _Lesson:
        known = self._lessons.get(engine)
        if known is not None and known.model == model:
            return known
        self.forget(engine)
        self._lessons[engine] = lesson = _Lesson(model)
        return lesson

    async def _learn(self, engine: str, lesson: _Lesson) -> None:
        try:
            lesson.ids = await ask_token_ids(self._upstream, engine, lesson.model, self._api_key)
        except TokensUnknown as error:
            if lesson.reason != str(error):
                lesson.reason = str(error)
                _LOG.info("engine %s does not tell its tokens, its likeliest will do: %s", engine, error)
        finally:
            lesson.asking = None


async def ask_token_ids(upstream: Upstream, engine: str, model: str, api_key: str | None) -> tuple[int, ...]:
    """The ids of the openings and ends that are one token each. Raises TokensUnknown where not all were told."""
    found: list[int] = []
    try:
        for text in (*OPENINGS, *ENDS):
            body = msgspec.json.encode({"model": model, "prompt": text, "add_special_tokens": False})
            tokens = await _tokens(upstream, engine, api_key, body)
            found += tokens if len(tokens) == 1 else []
    except (HeadwayError, msgspec.DecodeError, ValueError) as error:
        raise TokensUnknown(str(error)) from error
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
    if answer.status != 200:
        raise TokensUnknown(f"/tokenize is answered with status {answer.status}")
    return msgspec.json.decode(whole, type=_Tokens).tokens
