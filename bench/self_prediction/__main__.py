"""`python -m bench.self_prediction`: the table of self-prediction signals on the real vLLM (about ten minutes)."""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Collection, Sequence
from importlib.resources import files
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.self_prediction.collect import Asked, collect
from bench.self_prediction.compare import Row, compare
from training.lengths import RecordedLengths
from training.local_engines import VLLM, Launch, prepare_model, prepare_vllm, serving
from training.prompts import load_prompts


def main() -> int:
    """Collect (or read what was collected), compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only each Nth prompt")
    parser.add_argument("--kept", type=Path, default=Path("build/self_prediction.jsonl"))
    parser.add_argument("--ask", action="store_true", help="ask the engine what is not kept yet")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    asked = _read(args.kept)
    if args.ask:
        asked += _collect(args.every, {one.query for one in asked})
        args.kept.parent.mkdir(parents=True, exist_ok=True)
        args.kept.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in asked))
    rows = _compare(asked)
    if args.json:
        print(msgspec.json.encode({"rows": rows, "costs": _costs(asked)}).decode())
    else:
        _show(rows, _costs(asked))
    return 0


def _read(path: Path) -> list[Asked]:
    return msgspec.json.Decoder(Asked).decode_lines(path.read_bytes()) if path.exists() else []


def _collect(every: int, done: Collection[str]) -> list[Asked]:
    launch = Launch(prepare_vllm(), prepare_model(), (*VLLM.default_flags, "--max-num-seqs", "8"))
    with serving(launch) as engine:
        return asyncio.run(collect(engine.base_url, engine.model, load_prompts()[::every], 8, done))


def _compare(asked: Sequence[Asked]) -> list[Row]:
    known = {prompt.id: prompt for prompt in load_prompts()}
    table = files("training").joinpath("data", "lengths.jsonl").read_bytes()
    lengths = {
        row.id: row.output_tokens[0] for row in msgspec.json.Decoder(RecordedLengths).decode_lines(table)
    }
    ids = sorted({one.prompt_id for one in asked})
    of = {(name, one.prompt_id): signal for one in asked for name, signal in one.signals.items()}
    signals = {name: [of[name, each] for each in ids] for name in dict.fromkeys(name for name, _ in of)}
    return compare([known[each] for each in ids], [lengths[each] for each in ids], signals)


def _costs(asked: Sequence[Asked]) -> dict[str, dict[str, float]]:
    """By query: mean tokens and milliseconds of the query, and the share of the real prompt it left cached."""
    costs = {}
    for name in dict.fromkeys(one.query for one in asked):
        own = [one for one in asked if one.query == name]
        costs[name] = {
            "query_tokens": statistics.mean(one.query_tokens for one in own),
            "query_ms_p50": statistics.median(one.query_ms for one in own),
            "real_cached_share": sum(o.real_cached for o in own) / sum(o.real_prompt for o in own),
        }
    return costs


def _show(rows: Sequence[Row], costs: dict[str, dict[str, float]]) -> None:
    worth = Table("features", "tau-b", "95%", "gained over text")
    for row in rows:
        worth.add_row(
            row.features,
            f"{row.tau_b:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
            f"{row.gain_low:+.3f} to {row.gain_high:+.3f}",
        )
    cost = Table("query", "tokens", "ms p50", "real prompt cached")
    for name, one in costs.items():
        share = f"{one['real_cached_share']:.0%}"
        cost.add_row(name, f"{one['query_tokens']:.0f}", f"{one['query_ms_p50']:.0f}", share)
    console = Console(width=120)
    console.print(worth)
    console.print(cost)


if __name__ == "__main__":
    sys.exit(main())
