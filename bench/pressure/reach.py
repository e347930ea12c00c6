"""`python -m bench.pressure.reach [--json]`: how much may wait, what that costs, and how many may come at once."""

import argparse
import asyncio
import signal
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from bench.pressure.crowd import Ask, Crowd
from bench.pressure.decisions import decisions, state
from bench.pressure.figure import Figure, as_json, show
from bench.pressure.served import Served, served
from training.compare.engines import RunningEngine, emulated_engine

_BODIES: Final = (2_000, 20_000)
_PROCESS_BYTES: Final = 24 * 1024
_PATIENCE_S: Final = 120.0
_HOLDERS: Final = 10


def main() -> int:
    """Measure; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--waiting", type=int, default=10_000, help="requests that wait in the scheduler")
    parser.add_argument("--connections", type=int, default=4_000, help="requests that wait in the process")
    parser.add_argument("--burst", type=int, default=2_000, help="requests that come in one second")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is ended too
    figures = [state(args.waiting), *decisions(args.waiting)]
    with emulated_engine(1, slots=16) as engine:
        figures += [asyncio.run(memory(engine, args.connections, body_bytes)) for body_bytes in _BODIES]
        figures += asyncio.run(burst(engine, args.burst))
    if args.json:
        print(as_json(figures))
    else:
        show(figures)
    return 0 if all(one.kept for one in figures) else 1


async def memory(engine: RunningEngine, connections: int, body_bytes: int) -> Figure:
    """What the whole process takes for each request that waits, over as many connections."""
    async with served(engine.url, window=1, policy="fcfs") as process:
        # The only place is taken for minutes, and the first few bring in what is made once.
        writers = [await _ask(process, _body(engine, 100, 3_900)) for _ in range(_HOLDERS)]
        await _until(process, lambda status: status["running"] == 1)
        writers += [await _ask(process, _body(engine, body_bytes)) for _ in range(100)]
        await _until(process, lambda status: status["waiting"] >= 100)
        before, rss_before = await _waiting(process), process.rss_bytes()
        writers += [await _ask(process, _body(engine, body_bytes)) for _ in range(connections)]
        await _until(process, lambda status: status["waiting"] >= 100 + connections)
        more, taken = await _waiting(process) - before, process.rss_bytes() - rss_before
        for writer in writers:
            writer.close()
        await _until(process, lambda status: status["waiting"] + status["running"] == 0)
    name = f"process, {connections} waiting with {body_bytes} B each"
    return Figure(name, taken / more, _PROCESS_BYTES + 2 * body_bytes, "B a request")


async def burst(engine: RunningEngine, count: int) -> list[Figure]:
    """So many streams asked for within one second; the engine takes 16 at once, so nearly all wait."""
    asks = [Ask(place / count, 4 + place % 13) for place in range(count)]
    async with served(engine.url) as process:
        sending = asyncio.create_task(Crowd(process.url, engine.model).open_loop(asks))
        most_waiting = 0
        while not sending.done():
            most_waiting = max(most_waiting, (await process.status())["waiting"])
            await asyncio.sleep(0.2)
        seen = await sending
        ends: dict[str, int] = (await process.status())["outcomes"]
    whole = sum(one.status == 200 and one.tokens == one.ask.max_tokens for one in seen)
    statuses = dict(Counter(one.status for one in seen))
    name = f"{count} in one second"
    return [
        Figure(f"{name}: not answered in full (statuses {statuses})", count - whole, 0, "requests"),
        Figure(f"{name}: not counted as completed", count - ends.get("completed", 0), 0, "requests"),
        Figure(f"{name}: most seen waiting", most_waiting, None, "requests"),
        Figure(f"{name}: mean TTFT", statistics.mean(one.ttft_s for one in seen), None, "s"),
        Figure(f"{name}: longest E2E", max(one.e2e_s for one in seen), None, "s"),
    ]


def _body(engine: RunningEngine, body_bytes: int, max_tokens: int = 16) -> bytes:
    """A streamed chat of about so many bytes."""
    text = "word " * (body_bytes // 5)
    fields = {"model": engine.model, "stream": True, "max_tokens": max_tokens, "ignore_eos": True}
    return msgspec.json.encode(fields | {"messages": [{"role": "user", "content": text}]})


async def _ask(process: Served, body: bytes) -> asyncio.StreamWriter:
    """Send one request on a connection of its own, and leave its answer unread."""
    address = urlsplit(process.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: headway\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return writer


async def _waiting(process: Served) -> int:
    return int((await process.status())["waiting"])


async def _until(process: Served, holds: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the process says so. Raises TimeoutError."""
    async with asyncio.timeout(_PATIENCE_S):
        while not holds(await process.status()):  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
