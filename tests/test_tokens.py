"""Tokens and hashed n-grams: what one numpy pass cuts and hashes is what a plain loop would."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from predictor.features.tokens import (
    MAX_BYTES,
    context_grams,
    encode,
    focus_grams,
    hash_words,
    occupied_bins,
    system_grams,
    tokenize,
)

TEXTS = st.text(max_size=300) | st.text("aB1 ?,\n'é中😀\t\x00", max_size=60)
# A run of letters, or a run of other printable marks.
TOKEN = re.compile(rb"[a-z0-9_'\x80-\xff]+|[!-&(-/:-@[-^`{-~]+")
BITS = 15


@given(TEXTS)
def test_tokens_are_runs_of_letters_and_runs_of_marks(text: str) -> None:
    """A regular expression over the folded bytes finds the same tokens."""
    tokens = tokenize(encode(text))
    cut = [tokens.folded[s:e] for s, e in zip(tokens.starts.tolist(), tokens.ends.tolist(), strict=True)]
    assert cut == TOKEN.findall(tokens.folded)
    assert len(tokens.words) == len(cut)
    assert len(tokens.pairs) == max(0, len(cut) - 1)


@given(TEXTS, TEXTS)
def test_a_word_has_one_hash_wherever_it_stands(before: str, after: str) -> None:
    """The hash depends on the word alone, so that look-up tables and training find it."""
    tokens = tokenize(encode(f"{before} Zebra42 {after}"))
    assert hash_words("zebra00") in tokens.words.tolist()
    assert hash_words("zebra 00") in tokenize(encode(f"{before} zebra 17 {after}")).pairs.tolist()


def test_different_words_have_different_hashes() -> None:
    """Ten thousand words fall into about as many bins as a perfect hash would give them."""
    words = [
        f"{a}{b}{c}{d}"
        for a in "bcdfghklmn"
        for b in "aeiouáéíóú"
        for c in "bcdfghklmn"
        for d in "aeiouxyzws"
    ]
    hashes = tokenize(encode(" ".join(words[:1_000]))).words
    assert len(set(hashes.tolist())) == 1_000
    every = np.array([hash_words(word) for word in words], dtype=np.uint32)
    bins = len(occupied_bins([every], BITS))
    expected = (1 << BITS) * (1 - (1 - 2**-BITS) ** len(words))
    assert abs(bins - expected) < 0.05 * expected


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_each_occupied_bin_is_named_once_in_order(hashes: list[int]) -> None:
    """The bins are the hashes' high bits, ascending, without repetition."""
    bins = occupied_bins([np.array(hashes, dtype=np.uint32)], BITS)
    assert bins.tolist() == sorted({one >> (32 - BITS) for one in hashes})


def test_the_same_words_count_apart_in_prompt_system_and_context() -> None:
    """ "Be brief" of a system prompt is not "be brief" of the user."""
    focus = set(focus_grams(tokenize(b"be brief"))[0].tolist())
    system, context = set(system_grams("be brief").tolist()), set(context_grams("be brief").tolist())
    assert not focus & system
    assert not focus & context
    assert not system & context


@given(st.text(max_size=4 * MAX_BYTES))
def test_no_text_is_too_long_or_too_strange(text: str) -> None:
    """Any text is cut at MAX_BYTES and hashed without an error."""
    tokens = tokenize(encode(text))
    assert len(tokens.raw) <= MAX_BYTES
    assert len(occupied_bins(focus_grams(tokens), BITS)) <= 1 << BITS
