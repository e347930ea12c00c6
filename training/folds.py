"""Cross-validation folds that never separate two rows of one prompt."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


def assign_folds(prompts: npt.NDArray[np.str_], folds: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """A fold number per row; all rows of a prompt share one. Fewer prompts than folds make fewer folds."""
    names, number = np.unique(prompts, return_inverse=True)
    of_prompt = rng.permutation(np.arange(len(names)) % max(1, min(folds, len(names))))
    return np.asarray(of_prompt[number], dtype=np.intp)


def held_out_masks(fold: npt.NDArray[np.intp]) -> Iterator[BoolArray]:
    """For each fold the mask of its rows, skipping folds that would leave nothing to train on."""
    for number in np.unique(fold):
        mask = fold == number
        if not mask.all():
            yield mask
