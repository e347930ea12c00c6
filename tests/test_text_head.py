"""The text head: what scikit-learn fitted, evaluated without it, in numbers that agree."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from rankers import small_head
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge

from predictor.features.extractor import FIXED_NAMES, FeatureExtractor
from predictor.features.schema import FloatArray
from predictor.features.view import read_view
from predictor.head_file import head_from_bytes, head_to_bytes
from predictor.history import NO_HISTORY
from predictor.kernel import standardise
from predictor.request import body_from_dict
from predictor.text_head import MAX_OUTPUTS, TextHead, projection_id
from training.dataset import read_dataset
from training.examples import HASH_BITS
from training.fit_head import BINS, fit_head
from training.fit_priors import PriorGroup, fit_priors
from training.folds import assign_folds
from training.head_inputs import apply_head, fit_idf, fit_kernel_map, unseen_outputs
from training.sources import SourceRow

PROMPTS = [
    f"{ask} {thing}."
    for ask in (
        "Answer yes or no: is this a metal?",
        "Write a long essay about",
        "List 10 ideas for",
        "翻译：",
    )
    for thing in ("iron", "gold and silver", "def f(x): return x", "a trip to Rome in 3 days", "∫ x² dx", "")
]
DATA = read_dataset(
    SourceRow(f"row {number}", {"prompt": prompt, "output_tokens": number})
    for number, prompt in enumerate(PROMPTS)
)
TARGET = np.linspace(0, 1, len(PROMPTS))


def served(head: TextHead, prompts: Iterable[str] = PROMPTS) -> FloatArray:
    """What serving's extractor says with this head, one row per prompt."""
    extractor = FeatureExtractor(head)
    bodies = [body_from_dict({"prompt": prompt}) for prompt in prompts]
    rows = [extractor.extract(body, read_view(body), NO_HISTORY).values for body in bodies]
    return np.stack(rows)[:, len(FIXED_NAMES) :]


def test_tfidf_svd_and_ridge_agree_with_scikit_learns_own() -> None:
    """One row in numpy gives what TfidfTransformer, TruncatedSVD and Ridge give for it."""
    tfidf = TfidfTransformer().fit(DATA.grams)
    weighted = tfidf.transform(DATA.grams)
    svd = TruncatedSVD(5, random_state=0).fit(weighted)
    ridge = Ridge(1.0, solver="sparse_cg").fit(weighted, TARGET)
    head = TextHead(
        bits=HASH_BITS,
        names=("s0", "s1", "s2", "s3", "s4", "r"),
        idf=tfidf.idf_.astype(np.float32),
        weights=np.column_stack([svd.components_.T, ridge.coef_]).astype(np.float32),
        bias=np.array([0, 0, 0, 0, 0, ridge.intercept_], dtype=np.float32),
    )
    ours = served(head)
    np.testing.assert_allclose(ours[:, :5], svd.transform(weighted), atol=1e-5)
    np.testing.assert_allclose(ours[:, 5], ridge.predict(weighted), atol=1e-5)


def test_the_kernel_agrees_with_scikit_learns_nystroem() -> None:
    """A regression on Nystroem's features, evaluated from its landmarks alone, in training and in serving."""
    mapped = fit_kernel_map(DATA.fixed, seed=0)
    kernel = mapped.kernel
    rows = standardise(DATA.fixed[:, kernel.columns], kernel.center, kernel.scale)
    theirs = Nystroem(gamma=kernel.gamma, n_components=len(kernel.landmarks), random_state=0).fit(rows)
    np.testing.assert_allclose(mapped.features(DATA.fixed), theirs.transform(rows), atol=1e-4)
    ridge = Ridge(1.0).fit(theirs.transform(rows), TARGET)
    regression = kernel.with_weights(mapped.weights(ridge.coef_), np.array([0]))
    head = TextHead(
        HASH_BITS, ("k",), np.ones(BINS, np.float32), np.zeros((BINS, 1), np.float32),
        np.array([ridge.intercept_], dtype=np.float32), (regression,),
    )  # fmt: skip
    expected = ridge.predict(theirs.transform(rows))
    np.testing.assert_allclose(served(head)[:, 0], expected, atol=1e-3)
    np.testing.assert_allclose(apply_head(head, DATA.grams, DATA.fixed)[:, 0], expected, atol=1e-3)


@pytest.mark.parametrize("generations", [1, 2])
def test_serving_computes_what_training_saw(generations: int) -> None:
    """A head fitted on rows, or started from another head: row by row as all at once, stored as fitted."""
    fold = assign_folds(np.array(PROMPTS), 3, np.random.default_rng(0))
    head = fit_head(DATA.grams, DATA.fixed, TARGET, fold, 0, prompt=DATA.prompt).head
    for _ in range(1, generations):
        renamed = tuple(name.replace(".kernel", ".prior_x") for name in head.names)
        base = TextHead(head.bits, renamed, head.idf, head.weights, head.bias, head.kernels)
        head = fit_head(DATA.grams, DATA.fixed, TARGET, fold, 0, prompt=DATA.prompt, base=base).head
    stored = head_from_bytes(head_to_bytes(head))
    np.testing.assert_allclose(served(stored), apply_head(head, DATA.grams, DATA.fixed), atol=1e-3)
    assert stored.names == head.names


def taught_head() -> TextHead:
    """Two prior columns that the rows' own prompts have taught."""
    group = PriorGroup("x", DATA.grams, DATA.fixed, TARGET[:, None], DATA.prompt)
    return fit_priors([group], fit_idf(DATA.grams), fit_kernel_map(DATA.fixed, seed=0), seed=0)


def test_what_a_prior_column_was_taught_it_says_as_if_it_were_new() -> None:
    """To training, or a ranker would trust what the column remembers; to serving it says all that it knows."""
    head = head_from_bytes(head_to_bytes(taught_head()))
    unseen = unseen_outputs(head, DATA.grams, DATA.fixed, DATA.prompt)
    seen = apply_head(head, DATA.grams, DATA.fixed)
    assert (np.abs(seen - TARGET[:, None]).mean(axis=0) < np.abs(unseen - TARGET[:, None]).mean(axis=0)).all()
    np.testing.assert_allclose(served(head), seen, atol=1e-3)
    fold = assign_folds(np.array(PROMPTS), 3, np.random.default_rng(0))
    trained = fit_head(DATA.grams, DATA.fixed, TARGET, fold, 0, prompt=DATA.prompt, base=head)
    np.testing.assert_array_equal(trained.outputs[:, : len(head.names)], unseen)
    np.testing.assert_array_equal(trained.head.unseen, head.unseen)


def test_prompts_that_taught_nothing_are_as_new_as_they_are() -> None:
    """Some of the rows known, some not: each gets what it should."""
    head = taught_head()
    other = np.array([f"{number:064x}" for number in range(len(DATA))])
    mixed = np.where(np.arange(len(DATA)) % 2, DATA.prompt, other)
    found = unseen_outputs(head, DATA.grams, DATA.fixed, mixed)
    known = unseen_outputs(head, DATA.grams, DATA.fixed, DATA.prompt)
    np.testing.assert_array_equal(found[1::2], known[1::2])
    np.testing.assert_array_equal(found[::2], apply_head(head, DATA.grams, DATA.fixed)[::2])


def test_out_of_fold_outputs_are_not_the_fitted_ones() -> None:
    """The ranker is trained on what the head says of rows it has not seen, or it would trust the head too much."""
    fold = assign_folds(np.array(PROMPTS), 3, np.random.default_rng(0))
    fitted = fit_head(DATA.grams, DATA.fixed, TARGET, fold, 0, prompt=DATA.prompt)
    seen = apply_head(fitted.head, DATA.grams, DATA.fixed)[:, -1]
    unseen = fitted.outputs[:, -1]
    assert np.abs(seen - TARGET).mean() < np.abs(unseen - TARGET).mean()


@profile(max_examples=50)
@given(st.text(max_size=200))
def test_any_text_gives_finite_outputs(text: str) -> None:
    """Empty, of one letter or of another script: numbers, never NaN."""
    outputs = served(small_head(), [text.encode("utf-8", "replace").decode()])
    assert outputs.shape == (1, 2)
    assert outputs.dtype == np.float32
    assert np.isfinite(outputs).all()


def test_a_head_is_stored_without_loss() -> None:
    """Fitted in half precision, a head comes back as it was: names, numbers and order."""
    head = small_head()
    again = head_from_bytes(head_to_bytes(head))
    assert (again.bits, again.names, again.kernels) == (head.bits, head.names, ())
    for name in ("idf", "weights", "bias"):
        np.testing.assert_array_equal(getattr(again, name), getattr(head, name))


def test_an_output_carries_the_projection_that_made_it() -> None:
    """Two fits name their columns apart, so that logged outputs of one are never read as the other's; the same
    fit names them alike."""
    fold = np.arange(len(PROMPTS)) % 3
    first = fit_head(DATA.grams, DATA.fixed, TARGET, fold, 0, prompt=DATA.prompt).head
    again = fit_head(DATA.grams, DATA.fixed, TARGET, fold, 0, prompt=DATA.prompt).head
    other = fit_head(DATA.grams, DATA.fixed, TARGET[::-1].copy(), fold, 0, prompt=DATA.prompt).head
    assert first.names == again.names
    assert not set(first.names) & set(other.names)
    assert projection_id(first.weights) != projection_id(other.weights)


def test_there_are_never_more_outputs_than_the_log_holds() -> None:
    """At most 64 floats of text are logged; a head with more is refused when it is read."""
    rng = np.random.default_rng(0)
    width = MAX_OUTPUTS + 1
    head = TextHead(
        bits=8,
        names=tuple(f"o{number}" for number in range(width)),
        idf=np.ones(256, np.float32),
        weights=rng.normal(size=(256, width)).astype(np.float32),
        bias=np.zeros(width, np.float32),
    )
    with pytest.raises(ValueError, match="at most 64"):
        head_from_bytes(head_to_bytes(head))
