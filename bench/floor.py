"""The thinnest pass-through that aiohttp allows: what any proxy built on it must spend."""

import argparse
import asyncio
import sys
from typing import Final

import aiohttp
import uvloop
from aiohttp import web

_BODY_BYTES: Final = 64 << 20


class Floor:
    """Reads the body, posts it, gives back status and body, a stream chunk by chunk; nothing else."""

    def __init__(self, engine: str) -> None:
        self._engine = engine

    async def start(self, port: int) -> None:
        """Listen on 127.0.0.1."""
        # The limits are raised only as far as the cases need: 400 streams, a 20 MB body.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        app = web.Application(client_max_size=_BODY_BYTES)
        app.router.add_post("/{path:.*}", self._relay)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with self._session.post(self._engine + request.path, data=body) as engine:
            if engine.content_type == "text/event-stream":
                return await self._stream(request, engine)
            return web.Response(status=engine.status, body=await engine.read())

    async def _stream(self, request: web.Request, engine: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=engine.status)
        await response.prepare(request)
        async for chunk in engine.content.iter_any():
            await response.write(chunk)
        return response


async def serve(engine: str, port: int) -> None:
    """Serve until killed."""
    await Floor(engine).start(port)
    await asyncio.Event().wait()


def main() -> int:
    """Run the pass-through; returns the exit status."""
    parser = argparse.ArgumentParser(description="Pass requests through to an engine, on 127.0.0.1.")
    parser.add_argument("--engine", required=True, metavar="URL")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    uvloop.run(serve(args.engine, args.port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
