"""Builds the artifact that ships in the wheel: `python -m training.default_artifact --data DIR`.

Only `train` rows of openly licensed lengths, the public benchmark's training prompts among them: what a prior column
would say of a prompt that it has not seen is kept beside it, so that a ranker trained on these prompts does not trust
what the column remembers.
"""

import argparse
import sys
from itertools import compress
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from predictor.artifact import load_artifact
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT
from predictor.text_head import TextHead
from training.bundle import write_bundle
from training.dataset import Dataset, read_dataset
from training.default_card import CARD, model_card
from training.fit_priors import PriorGroup, fit_priors
from training.head_inputs import fit_idf, fit_kernel_map
from training.open_lengths import held_out_prompts, typical_lengths
from training.progress import show_progress
from training.sources import SourceRow
from training.train import train

# Rows of each group that the ranker itself sees, and what share of the weight they have together: chat is rare
# in open data and is what Headway meets.
_RANKER_ROWS: Final = {"chat": 1_000, "exam": 1_500, "reason": 1_500}
_SHARES: Final = {"chat": 0.5, "exam": 0.2, "reason": 0.3}
# How many ways in which lengths vary over prompts become prior columns; no two chat sources were answered by the same
# models. Tau-b on the public benchmark (8B, 70B) by cross-validation on its training rows: one of the reasoning 0.509,
# 0.536, three 0.509, 0.537; none of its prompts among the teachers 0.503, 0.535. More of the exams gain nothing.
_ASPECTS: Final = {"chat": 1, "exam": 4, "reason": 3}
_BALANCED_ROWS: Final = 800
_SEED: Final = 0


class Group(NamedTuple):
    """Prompts of one kind, and the ways (rows, k) in which their lengths vary."""

    name: str
    data: Dataset
    aspects: npt.NDArray[np.float64]


def main() -> int:
    """Read the sources, fit, evaluate on held-out rows, write."""
    parser = argparse.ArgumentParser(prog="python -m training.default_artifact")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the lengths files")
    parser.add_argument("--out", type=Path, default=DEFAULT_ARTIFACT, metavar="DIR")
    args = parser.parse_args()
    rng = np.random.default_rng(_SEED)
    held = held_out_prompts(args.data)
    groups = [read_group(args.data, name, held) for name in _RANKER_ROWS]
    priors = fit_group_priors(groups, rng)
    data, weight = choose_rows(groups, rng)
    with show_progress() as steps:
        bundle, report = train(
            data, priors, objective="cross_entropy", seed=_SEED, steps=steps, weight=weight
        )
    notes = {**report, "groups": {group.name: len(group.data) for group in groups}}
    write_bundle(bundle, args.out, notes)
    card = model_card(load_artifact(args.out), args.data, notes)
    write_bundle(bundle, args.out, notes, {CARD: card.encode()})
    sys.stderr.write(card)
    return 0


def read_group(folder: Path, name: str, held: frozenset[str]) -> Group:
    """The training prompts of a group with their typical lengths, less those in `held`."""
    typical = typical_lengths(folder, name, _ASPECTS[name])
    rows = [
        SourceRow(
            f"{name}:{number}", {"prompt": prompt, "output_tokens": tokens, "split": "train", "part": name}
        )
        for number, (prompt, tokens) in enumerate(zip(typical.prompts, typical.tokens.tolist(), strict=True))
    ]
    kept = np.array([prompt not in held for prompt in typical.prompts])
    return Group(name, read_dataset(compress(rows, kept)), typical.aspects[kept])


def fit_group_priors(groups: list[Group], rng: np.random.Generator) -> TextHead:
    """Prior columns of every group; document frequencies and landmarks come from as many rows of each."""
    sample = [group.data.select(_some(len(group.data), _BALANCED_ROWS, rng)) for group in groups]
    idf = fit_idf(sparse.vstack([data.grams for data in sample]))
    mapped = fit_kernel_map(np.vstack([data.fixed for data in sample]), _SEED)
    named = [
        PriorGroup(group.name, group.data.grams, group.data.fixed, group.aspects, group.data.prompt)
        for group in groups
    ]
    return fit_priors(named, idf, mapped, _SEED)


def choose_rows(groups: list[Group], rng: np.random.Generator) -> tuple[Dataset, npt.NDArray[np.float64]]:
    """The rows of all groups that the ranker sees, and their weights, of mean 1."""
    chosen = [group.data.select(_some(len(group.data), _RANKER_ROWS[group.name], rng)) for group in groups]
    shares = [_SHARES[group.name] / len(data) for group, data in zip(groups, chosen, strict=True)]
    weight = np.repeat(shares, [len(data) for data in chosen])
    return Dataset.concatenate(chosen), weight * len(weight) / weight.sum()


def _some(rows: int, limit: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    mask = np.zeros(rows, dtype=np.bool_)
    mask[rng.choice(rows, min(rows, limit), replace=False)] = True
    return mask


if __name__ == "__main__":
    sys.exit(main())
