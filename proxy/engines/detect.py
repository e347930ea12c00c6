"""Asking an engine what it is: a few harmless GETs, side by side."""

import asyncio
from typing import Final

from multidict import CIMultiDict

from proxy.engine_answer import EngineAnswer
from proxy.engines.facts import QUESTIONS, EngineFacts, Reply, read_facts
from proxy.errors import HeadwayError
from proxy.upstream import Upstream

_TIMEOUT_S: Final = 3.0
# SGLang's /metrics can be some 100 kB; nothing else that is asked for comes near.
_MOST_BYTES: Final = 8 << 20


async def detect(upstream: Upstream, base: str, api_key: str | None) -> EngineFacts:
    """What the engine at `base` is; never raises. `answered` is False where it says nothing at all."""
    replies = await asyncio.gather(*(ask(upstream, base, path, api_key) for path in QUESTIONS))
    return read_facts(dict(zip(QUESTIONS, replies, strict=True)))


async def ask(upstream: Upstream, base: str, path: str, api_key: str | None) -> Reply:
    """GET one page; an empty reply where none comes in time."""
    headers = CIMultiDict({"Accept-Encoding": "identity"})
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            response = await upstream.open(base, "GET", path, headers, None)
            try:
                return Reply(response.status, await _body(upstream, base, response))
            finally:
                response.close()
    except (HeadwayError, TimeoutError):
        return Reply()


async def _body(upstream: Upstream, base: str, response: EngineAnswer) -> bytes:
    body = b""
    while (chunk := await upstream.read(response, base)) and len(body) <= _MOST_BYTES:
        body += chunk
    return body
