"""Record how long a real engine's answers to our prompts are: the table that the emulated engine replays."""

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from rich.console import Console
from rich.progress import Progress

from training.prompts import Prompt, load_calls, load_prompts


class Recorded(msgspec.Struct):
    """The lengths of one prompt's sampled answers, in tokens; `finish` says why each ended."""

    id: str
    prompt_tokens: int
    output_tokens: list[int]
    finish: list[str]


async def record(
    url: str,
    model: str,
    prompts: list[Prompt],
    body: dict[str, Any],
    *,
    samples: int,
    concurrency: int,
) -> list[Recorded]:
    """Ask for `samples` answers of each prompt; returns one row per prompt in order."""
    gate = asyncio.Semaphore(concurrency)
    rows = {prompt.id: Recorded(prompt.id, 0, [0] * samples, [""] * samples) for prompt in prompts}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("recording", total=len(prompts) * samples)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

            async def one(prompt: Prompt, sample: int) -> None:
                # No `seed`: on a CPU, vLLM 0.32 dies of a seeded request ("CPU Generator does not use offset").
                request = body | {"model": model, "messages": msgspec.to_builtins(prompt.messages)}
                async with gate, session.post(f"{url}/v1/chat/completions", json=request) as response:
                    response.raise_for_status()
                    answer = await response.json()
                row = rows[prompt.id]
                row.prompt_tokens = answer["usage"]["prompt_tokens"]
                row.output_tokens[sample] = answer["usage"]["completion_tokens"]
                row.finish[sample] = answer["choices"][0]["finish_reason"]
                progress.advance(bar)

            await asyncio.gather(*(one(prompt, sample) for sample in range(samples) for prompt in prompts))
    return list(rows.values())


def main() -> int:
    """`python -m training.record_lengths --url http://127.0.0.1:8000 --model smollm2 --out lengths.jsonl`"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--of", choices=("prompts", "calls"), default="prompts", help="people's or programs'")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--repetition-penalty", type=float, default=1.1)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--every", type=int, default=1, help="record only each Nth prompt")
    args = parser.parse_args()
    body = {
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "repetition_penalty": args.repetition_penalty,
    }
    started = time.monotonic()
    prompts = (load_calls() if args.of == "calls" else load_prompts())[:: args.every]
    rows = asyncio.run(
        record(args.url, args.model, prompts, body, samples=args.samples, concurrency=args.concurrency)
    )
    args.out.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    lengths = [tokens for row in rows for tokens in row.output_tokens]
    capped = sum(reason == "length" for row in rows for reason in row.finish)
    print(
        f"{len(lengths)} answers, {sum(lengths)} tokens in {time.monotonic() - started:.0f} s, "
        f"{capped / len(lengths):.1%} stopped by the cap",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
