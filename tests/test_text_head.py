"""The text head: what scikit-learn fitted, evaluated without it, in numbers that agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from rankers import small_head
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge

from predictor.features.extractor import FIXED_NAMES, raw_features
from predictor.features.view import read_view
from predictor.head_file import head_from_bytes, head_to_bytes
from predictor.kernel import standardise
from predictor.request import body_from_dict
from predictor.text_head import MAX_OUTPUTS, TextHead, projection_id
from training.examples import HASH_BITS
from training.fit_head import fit_head
from training.folds import assign_folds
from training.head_inputs import apply_head, fit_kernel_map

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
RAW = [
    raw_features(body, read_view(body), HASH_BITS)
    for body in ({"prompt": p} for p in PROMPTS)
    for body in [body_from_dict(body)]
]


def gram_matrix() -> sparse.csr_matrix:
    """The prompts' n-gram counts, (rows, bins)."""
    offsets = np.cumsum([0, *(len(raw.bins) for raw in RAW)])
    counts, bins = np.concatenate([raw.counts for raw in RAW]), np.concatenate([raw.bins for raw in RAW])
    return sparse.csr_matrix((counts, bins, offsets), shape=(len(RAW), 1 << HASH_BITS))


FIXED = np.stack([raw.fixed for raw in RAW])
TARGET = np.linspace(0, 1, len(PROMPTS))


def test_tfidf_svd_and_ridge_agree_with_scikit_learns_own() -> None:
    """One row in numpy gives what TfidfTransformer, TruncatedSVD and Ridge give for it."""
    grams = gram_matrix()
    tfidf = TfidfTransformer(sublinear_tf=True).fit(grams)
    weighted = tfidf.transform(grams)
    svd = TruncatedSVD(5, random_state=0).fit(weighted)
    ridge = Ridge(1.0, solver="sparse_cg").fit(weighted, TARGET)
    head = TextHead(
        bits=HASH_BITS,
        names=("s0", "s1", "s2", "s3", "s4", "r"),
        idf=tfidf.idf_.astype(np.float32),
        weights=np.column_stack([svd.components_.T, ridge.coef_]).astype(np.float32),
        bias=np.array([0, 0, 0, 0, 0, ridge.intercept_], dtype=np.float32),
    )
    ours = np.stack([head.transform(raw.bins, raw.counts, raw.fixed) for raw in RAW])
    np.testing.assert_allclose(ours[:, :5], svd.transform(weighted), atol=1e-5)
    np.testing.assert_allclose(ours[:, 5], ridge.predict(weighted), atol=1e-5)


def test_the_kernel_agrees_with_scikit_learns_nystroem() -> None:
    """A regression on Nystroem's features, evaluated from its landmarks alone."""
    mapped = fit_kernel_map(FIXED, seed=0)
    kernel = mapped.kernel
    rows = standardise(FIXED[:, kernel.columns], kernel.center, kernel.scale)
    theirs = Nystroem(gamma=kernel.gamma, n_components=len(kernel.landmarks), random_state=0).fit(rows)
    np.testing.assert_allclose(mapped.features(FIXED), theirs.transform(rows), atol=1e-4)
    ridge = Ridge(1.0).fit(mapped.features(FIXED), TARGET)
    regression = kernel.with_weights(mapped.weights(ridge.coef_), np.array([0]))
    ours = [float(regression.evaluate(row)[0]) + ridge.intercept_ for row in FIXED]
    np.testing.assert_allclose(ours, ridge.predict(theirs.transform(rows)), atol=1e-4)


@pytest.mark.parametrize("generations", [1, 2])
def test_serving_computes_what_training_saw(generations: int) -> None:
    """The head fitted on rows, one that was started from another head too: by row as by matrix, stored as fitted."""
    grams, fold = gram_matrix(), assign_folds(np.array(PROMPTS), 3, np.random.default_rng(0))
    head = fit_head(grams, FIXED, TARGET, fold, 0).head
    for _ in range(1, generations):
        renamed = tuple(name.replace(".kernel", ".prior_x") for name in head.names)
        base = TextHead(head.bits, renamed, head.idf, head.weights, head.bias, head.kernels)
        head = fit_head(grams, FIXED, TARGET, fold, 0, base=base).head
    serving = head_from_bytes(head_to_bytes(head))
    by_row = np.stack([serving.transform(raw.bins, raw.counts, raw.fixed) for raw in RAW])
    np.testing.assert_allclose(by_row, apply_head(head, grams, FIXED), atol=2e-3)
    assert serving.names == head.names


def test_out_of_fold_outputs_are_not_the_fitted_ones() -> None:
    """The ranker is trained on what the head says of rows it has not seen, or it would trust the head too much."""
    fold = assign_folds(np.array(PROMPTS), 3, np.random.default_rng(0))
    fitted = fit_head(gram_matrix(), FIXED, TARGET, fold, 0)
    seen = apply_head(fitted.head, gram_matrix(), FIXED)[:, -1]
    unseen = fitted.outputs[:, -1]
    assert np.abs(seen - TARGET).mean() < np.abs(unseen - TARGET).mean()


@profile(max_examples=50)
@given(st.text(max_size=200))
def test_any_text_gives_finite_outputs(text: str) -> None:
    """Empty, of one letter, of surrogates or of another script: numbers, never NaN."""
    body = body_from_dict({"prompt": text.encode("utf-8", "replace").decode()})
    head = small_head()
    raw = raw_features(body, read_view(body), head.bits)
    outputs = head.transform(raw.bins, raw.counts, raw.fixed)
    assert outputs.shape == (2,)
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
    first = fit_head(gram_matrix(), FIXED, TARGET, fold, 0).head
    again = fit_head(gram_matrix(), FIXED, TARGET, fold, 0).head
    other = fit_head(gram_matrix(), FIXED, TARGET[::-1].copy(), fold, 0).head
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


def test_fixed_names_are_what_kernels_read() -> None:
    """A kernel finds its inputs by name, so a head fitted before a feature moved still reads the right ones."""
    kernel = fit_kernel_map(FIXED, seed=0).kernel
    head = TextHead(
        8,
        ("k",),
        np.ones(256, np.float32),
        np.zeros((256, 1), np.float32),
        np.zeros(1, np.float32),
        (kernel.with_weights(np.ones((len(kernel.landmarks), 1), np.float32), np.array([0])),),
    )
    again = head_from_bytes(head_to_bytes(head)).kernels[0]
    assert [FIXED_NAMES[c] for c in again.columns] == [FIXED_NAMES[c] for c in kernel.columns]
    np.testing.assert_allclose(again.evaluate(FIXED[0]), head.kernels[0].evaluate(FIXED[0]), rtol=1e-5)
