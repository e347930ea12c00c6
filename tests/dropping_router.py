"""A router as there are many: it understands what it passes on, and drops what it does not know: priorities."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

_DROPPED = {"x-vllm-priority", "host", "content-length"}


@asynccontextmanager
async def dropping_router(engine: str) -> AsyncIterator[str]:
    """Serves in front of `engine` until the block ends; gives its base URL."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def relay(request: web.Request) -> web.StreamResponse:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED}
            body = await request.read()
            async with session.request(
                request.method, engine + request.path_qs, headers=headers, data=_without_priority(body)
            ) as answer:
                response = web.StreamResponse(
                    status=answer.status, headers={"Content-Type": answer.content_type}
                )
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response

        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", relay)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await asyncio.shield(runner.cleanup())


def _without_priority(body: bytes) -> bytes:
    try:
        document = json.loads(body)
    except ValueError:
        return body
    return json.dumps({name: value for name, value in document.items() if name != "priority"}).encode()
