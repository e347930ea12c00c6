"""`python -m bench.self_prediction`: the table of self-prediction signals on a real engine (about ten minutes)."""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.self_prediction.collect import Asked, collect
from bench.self_prediction.compare import Row, compare
from bench.self_prediction.sglang import FLAGS
from training.lengths import RecordedLengths
from training.local_engines import SGLANG, VLLM, Launch, prepare_model, prepare_sglang, prepare_vllm, serving
from training.prompts import load_prompts

# What stands in for SGLang's compiled kernels.
_KERNELS: Final = Path(__file__).parents[2] / "tests" / "engines"


def main() -> int:
    """Collect (or read what was collected), compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only each Nth prompt")
    parser.add_argument("--engine", choices=("vllm", "sglang"), default="vllm")
    parser.add_argument("--kept", type=Path, help="default: build/self_prediction_ENGINE.jsonl")
    parser.add_argument("--ask", action="store_true", help="ask the engine what is not kept yet")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    kept = args.kept or Path(f"build/self_prediction_{args.engine}.jsonl")
    if args.ask:
        kept.parent.mkdir(parents=True, exist_ok=True)
        asyncio.run(_collect(args.engine, args.every, kept))
    asked = _read(kept)
    rows = _compare(asked)
    if args.json:
        print(msgspec.json.encode({"rows": rows, "costs": _costs(asked)}).decode())
    else:
        _show(rows, _costs(asked))
    return 0


def _read(path: Path) -> list[Asked]:
    return msgspec.json.Decoder(Asked).decode_lines(path.read_bytes()) if path.exists() else []


async def _collect(engine: str, every: int, kept: Path) -> None:
    """Each query's answers are kept as soon as all prompts have been asked: a run may be cut off and go on."""
    done = {one.query for one in _read(kept)}
    with serving(_launch(engine)) as running, kept.open("ab") as file:
        prompts = load_prompts()[::every]
        async for asked in collect(running.base_url, engine, running.model, prompts, done=done):
            file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in asked))
            file.flush()


def _launch(engine: str) -> Launch:
    if engine == "vllm":
        return Launch(prepare_vllm(), prepare_model(), (*VLLM.default_flags, "--max-num-seqs", "8"))
    flags = (*SGLANG.default_flags, *FLAGS, "--default-priority-value", "0")
    return Launch(prepare_sglang(), prepare_model(), flags, extra_path=_KERNELS)


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
