"""Openly licensed lengths of many models, brought to one typical length per prompt."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from training.sources import Row, read_source

DoubleArray = npt.NDArray[np.float64]
# Model, prompt, log(1 + output tokens).
Answer = tuple[str, str, float]

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
_MIN_COVERAGE: Final = 0.8
_ROUNDS: Final = 3


def held_out_prompts(folder: Path) -> frozenset[str]:
    """Every prompt that the public benchmark holds out; other files say for themselves which rows they hold out."""
    rows = (row for name in BENCHMARK for _, row in read_source(str(folder / name)))
    return frozenset(row["prompt"] for row in rows if row["split"] == "heldout")


class TypicalLengths(NamedTuple):
    """`tokens` (n,) typical for each prompt, and `aspects` (n, k) in [0, 1]: first what the models agree on, then
    the ways in which they differ most."""

    prompts: list[str]
    tokens: DoubleArray
    aspects: DoubleArray


def typical_lengths(folder: Path, group: str, aspects: int) -> TypicalLengths:
    """The training prompts of a group, over its chat models, in the order of the prompts' text."""
    rows = [row for name in GROUPS[group] for row in _chat_rows(folder / name)]
    answers = [(row["model"], row["prompt"], float(np.log1p(row["output_tokens"]))) for row in rows]
    effects = prompt_effects(answers)
    prompts = sorted(effects)
    level = np.array([effects[prompt] for prompt in prompts])
    columns = [_ranks(level)]
    if aspects > 1:
        columns = list(_principal_aspects(answers, prompts, level, aspects).T)
    return TypicalLengths(prompts, np.expm1(level), np.column_stack(columns))


def prompt_effects(answers: Sequence[Answer]) -> dict[str, float]:
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
        effect = _means(
            (prompt, length - offset[model]) for model, seen in kept.items() for prompt, length in seen
        )
        offset = _means(
            (model, length - effect[prompt]) for model, seen in kept.items() for prompt, length in seen
        )
    return effect


def _means(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for name, value in pairs:
        values[name].append(value)
    return {name: float(np.mean(seen)) for name, seen in values.items()}


def _principal_aspects(
    answers: Sequence[Answer], prompts: list[str], level: DoubleArray, count: int
) -> DoubleArray:
    """Principal components (n, count), as ranks, of the prompts' places within each model's answers.

    A model that answered few of the prompts is left out; a prompt it missed has its typical place there.
    """
    place = {prompt: number for number, prompt in enumerate(prompts)}
    by_model: dict[str, DoubleArray] = defaultdict(lambda: np.full(len(prompts), np.nan))
    for model, prompt, length in answers:
        if prompt in place:
            by_model[model][place[prompt]] = length
    columns = []
    for lengths in by_model.values():
        known = ~np.isnan(lengths)
        if known.mean() >= _MIN_COVERAGE:
            column = _ranks(level)
            column[known] = _ranks(lengths[known])
            columns.append(column - column.mean())
    components, _, _ = np.linalg.svd(np.column_stack(columns), full_matrices=False)
    signs = np.sign(level - level.mean()) @ components[:, :count]
    return np.column_stack(
        [_ranks(part * (-1 if sign < 0 else 1)) for part, sign in zip(components.T, signs, strict=False)]
    )


def _ranks(values: DoubleArray) -> DoubleArray:
    return np.asarray(stats.rankdata(values) / len(values), dtype=np.float64)


def _chat_rows(path: Path) -> Iterator[Row]:
    """Training rows whose whole answer was counted."""
    for _, row in read_source(str(path)):
        whole = row.get("output_tokens") is not None and not row.get("hidden_reasoning")
        if row["split"] == "train" and row.get("kind") in _CHAT_KINDS and whole and row.get("prompt"):
            yield row
