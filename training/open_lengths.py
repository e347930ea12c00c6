"""Openly licensed lengths of many models, brought to one typical length per prompt."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from training.sources import Row, read_source

# Files of each group, and the kinds of model in them that answer as a chat model does.
GROUPS: Final = {
    "chat": (
        "lengths-arena_hard.parquet",
        "lengths-fastchat_vicuna80.parquet",
        "lengths-self_instruct_252.parquet",
        "lengths-misguided_attention.parquet",
    ),
    "exam": ("lengths-mmlu_pro.parquet",),
    "reason": ("lengths-zeroeval.parquet",),
}
BENCHMARK: Final = ("mixed-llama-3.1-8b.jsonl.gz", "mixed-llama-3.1-70b.jsonl.gz")
_CHAT_KINDS: Final = frozenset({"chat", "instruct", "chat-fewshot"})
_MIN_ROWS_PER_MODEL: Final = 20
_ROUNDS: Final = 3


def benchmark_prompts(folder: Path) -> frozenset[str]:
    """Every prompt of the public benchmark, of either split."""
    return frozenset(row["prompt"] for name in BENCHMARK for _, row in read_source(str(folder / name)))


def prompt_lengths(folder: Path, group: str) -> dict[str, float]:
    """Typical output tokens by prompt, over the training rows of a group's chat models."""
    rows = [row for name in GROUPS[group] for row in _chat_rows(folder / name)]
    effects = prompt_effects(
        (row["model"], row["prompt"], float(np.log1p(row["output_tokens"]))) for row in rows
    )
    return {prompt: float(np.expm1(effect)) for prompt, effect in sorted(effects.items())}


def prompt_effects(answers: Iterable[tuple[str, str, float]]) -> dict[str, float]:
    """Each prompt's own level in (model, prompt, log length): length = prompt + model + noise, fitted by turns.

    So a prompt that only terse models answered does not pass for a short one.
    """
    by_model: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for model, prompt, length in answers:
        by_model[model].append((prompt, length))
    kept = {model: seen for model, seen in by_model.items() if len(seen) >= _MIN_ROWS_PER_MODEL}
    offset = dict.fromkeys(kept, 0.0)
    effect: dict[str, float] = {}
    for _ in range(_ROUNDS):
        sums: dict[str, list[float]] = defaultdict(list)
        for model, seen in kept.items():
            for prompt, length in seen:
                sums[prompt].append(length - offset[model])
        effect = {prompt: float(np.mean(values)) for prompt, values in sums.items()}
        offset = {
            model: float(np.mean([length - effect[prompt] for prompt, length in seen]))
            for model, seen in kept.items()
        }
    return effect


def _chat_rows(path: Path) -> Iterator[Row]:
    """Training rows whose whole answer was counted."""
    for _, row in read_source(str(path)):
        whole = row.get("output_tokens") is not None and not row.get("hidden_reasoning")
        if row["split"] == "train" and row.get("kind") in _CHAT_KINDS and whole and row.get("prompt"):
            yield row
