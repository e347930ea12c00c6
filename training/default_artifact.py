"""Builds the artifact that ships in the wheel: `python -m training.default_artifact --data DIR`.

Only `train` rows of openly licensed lengths. One row per prompt, its label the mean log length over chat
models after each model's own level is taken out, so that the order says "long for whatever model".
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from training.dataset import read_dataset
from training.sources import Row, SourceRow, read_source
from training.train import train

# File, and how many prompts of it at most: no source may drown the others.
SOURCES: Final = (
    ("lengths-arena_hard.parquet", 1_000),
    ("lengths-fastchat_vicuna80.parquet", 1_000),
    ("lengths-self_instruct_252.parquet", 1_000),
    ("lengths-misguided_attention.parquet", 1_000),
    ("lengths-zeroeval.parquet", 1_500),
    ("lengths-mmlu_pro.parquet", 2_500),
)
_CHAT_KINDS: Final = ("chat", "instruct", "chat-fewshot")


def chat_rows(path: Path) -> Iterator[Row]:
    """Uncensored training rows of models that chat, with what their providers let one see."""
    for _, row in read_source(str(path)):
        usable = row["split"] == "train" and row.get("kind") in _CHAT_KINDS and row.get("output_tokens", 0) > 0
        if usable and not row.get("hidden_reasoning"):
            yield row


def mean_over_models(rows: Iterable[Row], limit: int, rng: np.random.Generator) -> list[Row]:
    """One row per prompt: the mean log length, each model's level brought to the mean of all models."""
    lengths: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    first: dict[str, Row] = {}
    for row in rows:
        lengths[row["model"]][row["prompt_id"]].append(float(np.log1p(row["output_tokens"])))
        first.setdefault(row["prompt_id"], row)
    level = {model: float(np.mean([np.mean(v) for v in by.values()])) for model, by in lengths.items()}
    overall = float(np.mean(list(level.values())))
    values: dict[str, list[float]] = defaultdict(list)
    for model, by_prompt in lengths.items():
        for prompt, logs in by_prompt.items():
            values[prompt].append(float(np.mean(logs)) - level[model] + overall)
    kept = sorted(values)
    if len(kept) > limit:
        kept = [kept[index] for index in sorted(rng.choice(len(kept), limit, replace=False))]
    return [_row(first[prompt], float(np.expm1(np.mean(values[prompt])))) for prompt in kept]


def _row(row: Row, tokens: float) -> Row:
    return {
        "prompt": row["prompt"],
        "output_tokens": max(1.0, round(tokens, 1)),
        "split": "train",
        "part": row["source"],
    }


def main() -> int:
    """Read the sources, train, write."""
    parser = argparse.ArgumentParser(prog="python -m training.default_artifact")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the lengths files")
    parser.add_argument("--out", type=Path, default=DEFAULT_ARTIFACT, metavar="DIR")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rows: list[SourceRow] = []
    for name, limit in SOURCES:
        chosen = mean_over_models(chat_rows(args.data / name), limit, rng)
        print(f"{name}: {len(chosen)} prompts", file=sys.stderr)
        rows.extend(SourceRow(f"{name}:{number}", row) for number, row in enumerate(chosen))
    print(train(read_dataset(rows), args.out, source="default", seed=0), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
