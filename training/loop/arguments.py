"""The loop's command line: what it takes, and one line for what it does not."""

import argparse
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

QUICK_MINUTES: Final = 20.0
FULL_MINUTES: Final = 120.0
_WHAT: Final = "`python -m training.loop`: run the loop, write its report and its picture."
_SLOTS: Final = 16


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, or `words`; ends with status 2 and one line for what cannot be."""
    parser = argparse.ArgumentParser(prog="python -m training.loop", description=_WHAT)
    add = parser.add_argument
    add("--engine", choices=("emulated", "vllm"), default="emulated", help="what serves")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", action="store_true", help=f"within {QUICK_MINUTES:g} minutes (the default)"
    )
    extent.add_argument("--full", action="store_true", help=f"within {FULL_MINUTES:g} minutes")
    add("--minutes", type=_positive, help="within so many")
    add("--load", type=_positive, default=1.3, help="arrival rate over the closed-loop rate")
    add(
        "--calls", type=_share, default=0.6, metavar="SHARE",
        help="of all requests, what programs send (answers of a word or two); the rest is what people write",
    )  # fmt: skip
    # At 256 people's prompts alone differ so little that true lengths give 1.6 to 1.7 times, at 512 about 2.
    add("--max-tokens", type=_count, default=512, help="cap of every answer")
    add("--learn", type=_count, default=600, help="requests of the training half that are learned from")
    add("--requests", type=_count, help="requests per measured pass; default: what fits into the time")
    add("--max-overtake", type=_positive, help="D in seconds; default: 2 x FCFS's p99 TTFT")
    add("--slots", type=_count, default=_SLOTS, help="sequences that the engine runs at once")
    add(
        "--engine-cpus", metavar="CPUS",
        help='that the real engine computes on, "0" or "0-3" (default: all but one, which proxy and client share)',
    )  # fmt: skip
    add(
        "--dtype", choices=("bfloat16", "float32"),
        help="what the real engine computes in: in float32 answers repeat, at half the pace (default with --full)",
    )  # fmt: skip
    add(
        "--pairs",
        type=_several,
        default=4,
        help="of passes that keep the engine full, without Headway and through it",
    )
    add("--seed", type=int, default=1)
    add("--state", metavar="DIR", help="keep the logs and artifacts here")
    add(
        "--out", type=Path, default=Path("build/loop.json"), metavar="FILE", help="the picture lies beside it"
    )
    return parser.parse_args(words)


def all_but_one(cpus: Collection[int]) -> str:
    """CPUs for the engine's model, as vLLM has them: on a GPU it would not share them with proxy and client either."""
    return ",".join(map(str, sorted(cpus)[: max(1, len(cpus) - 1)]))


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a share from 0 to 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _count(text: str) -> int:
    return _whole(text, 1)


def _several(text: str) -> int:
    return _whole(text, 2)


def _whole(text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least}")
    return int(text)
