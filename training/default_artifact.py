"""Builds the artifact that ships in the wheel: `python -m training.default_artifact --data DIR`.

Only `train` rows of openly licensed lengths. Prompts of the public benchmark teach no prior column, in neither
split, so that a ranker trained on the benchmark starts from other people's prompts alone.
"""

import argparse
import sys
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from predictor.artifact import load_artifact
from predictor.features.schema import FloatArray
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from training.bundle import write_bundle
from training.dataset import Dataset, read_dataset
from training.default_card import CARD, model_card
from training.fit_priors import FittedPriors, PriorGroup, fit_priors
from training.head_inputs import apply_head, fit_idf, fit_kernel_map
from training.open_lengths import benchmark_prompts, typical_lengths
from training.progress import show_progress
from training.sources import SourceRow
from training.train import train

# Rows of each group that the ranker itself sees, and what share of the weight they have together: chat is rare
# in open data and is what Headway meets.
_RANKER_ROWS: Final = {"chat": 1_000, "exam": 1_500, "reason": 1_500}
_SHARES: Final = {"chat": 0.5, "exam": 0.2, "reason": 0.3}
# How many ways in which lengths vary over prompts become prior columns; only the exams were answered by enough
# models on the same prompts to tell more than one.
_ASPECTS: Final = {"chat": 1, "exam": 4, "reason": 1}
_BALANCED_ROWS: Final = 800
_SEED: Final = 0


class Group(NamedTuple):
    """Prompts of one kind; `fresh` marks those that the benchmark does not hold."""

    name: str
    data: Dataset
    aspects: npt.NDArray[np.float64]
    fresh: npt.NDArray[np.bool_]


def main() -> int:
    """Read the sources, fit, evaluate on held-out rows, write."""
    parser = argparse.ArgumentParser(prog="python -m training.default_artifact")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the lengths files")
    parser.add_argument("--out", type=Path, default=DEFAULT_ARTIFACT, metavar="DIR")
    args = parser.parse_args()
    rng = np.random.default_rng(_SEED)
    held = benchmark_prompts(args.data)
    groups = [read_group(args.data, name, held) for name in _RANKER_ROWS]
    priors = fit_group_priors(groups, rng)
    chosen = [choose_rows(group, priors, rng) for group in groups]
    data, lent, weight = merge(chosen)
    with show_progress() as steps:
        bundle, report = train(
            data, priors.head, objective="cross_entropy", seed=_SEED, steps=steps, lent=lent, weight=weight
        )
    notes = {**report, "groups": {group.name: len(group.data) for group in groups}}
    write_bundle(bundle, args.out, notes)
    card = model_card(load_artifact(args.out), args.data, notes)
    write_bundle(bundle, args.out, notes, {CARD: card.encode()})
    sys.stderr.write(card)
    return 0


def read_group(folder: Path, name: str, held: frozenset[str]) -> Group:
    """The training prompts of a group with their typical lengths."""
    typical = typical_lengths(folder, name, _ASPECTS[name])
    rows = [
        SourceRow(
            f"{name}:{number}", {"prompt": prompt, "output_tokens": tokens, "split": "train", "part": name}
        )
        for number, (prompt, tokens) in enumerate(zip(typical.prompts, typical.tokens.tolist(), strict=True))
    ]
    fresh = np.array([prompt not in held for prompt in typical.prompts])
    return Group(name, read_dataset(rows), typical.aspects, fresh)


def fit_group_priors(groups: list[Group], rng: np.random.Generator) -> FittedPriors:
    """Prior columns of every group; document frequencies and landmarks come from as many rows of each."""
    fresh = [group.data.select(group.fresh) for group in groups]
    sample = [data.select(_some(len(data), _BALANCED_ROWS, rng)) for data in fresh]
    idf = fit_idf(sparse.vstack([data.grams for data in sample]))
    mapped = fit_kernel_map(np.vstack([data.fixed for data in sample]), _SEED)
    named = [
        PriorGroup(group.name, data.grams, data.fixed, group.aspects[group.fresh], data.prompt)
        for group, data in zip(groups, fresh, strict=True)
    ]
    return fit_priors(named, idf, mapped, _SEED)


def choose_rows(
    group: Group, priors: FittedPriors, rng: np.random.Generator
) -> tuple[Dataset, FloatArray, npt.NDArray[np.float64]]:
    """The group's rows for the ranker, their prior outputs (its own columns out of fold) and their weights."""
    outputs = apply_head(priors.head, group.data.grams, group.data.fixed)
    own = np.flatnonzero([f".prior_{group.name}" in name for name in priors.head.names])
    outputs[np.ix_(np.flatnonzero(group.fresh), own)] = priors.out_of_fold[group.name]
    mask = _some(len(group.data), _RANKER_ROWS[group.name], rng)
    count = int(mask.sum())
    return group.data.select(mask), outputs[mask], np.full(count, _SHARES[group.name] / count)


def merge(
    chosen: list[tuple[Dataset, FloatArray, npt.NDArray[np.float64]]],
) -> tuple[Dataset, FloatArray, npt.NDArray[np.float64]]:
    """All groups as one data set, with weights of mean 1."""
    data = Dataset.concatenate([part for part, _, _ in chosen])
    weight = np.concatenate([weights for _, _, weights in chosen])
    return data, np.vstack([outputs for _, outputs, _ in chosen]), weight * len(weight) / weight.sum()


def _some(rows: int, limit: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    mask = np.zeros(rows, dtype=np.bool_)
    mask[rng.choice(rows, min(rows, limit), replace=False)] = True
    return mask


if __name__ == "__main__":
    sys.exit(main())
