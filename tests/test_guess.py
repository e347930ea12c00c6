"""The transparent guess: it needs no training, and puts kinds of request in their evident order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from rankers import small_head

from predictor.features.extractor import FeatureExtractor
from predictor.features.view import read_view
from predictor.history import NO_HISTORY
from predictor.request import body_from_dict

EXTRACTOR = FeatureExtractor(small_head())


def guess(text: str) -> float:
    """Tokens guessed for a prompt."""
    body = body_from_dict({"prompt": text})
    return float(np.expm1(EXTRACTOR.extract(body, read_view(body), NO_HISTORY).named()["asked.guess"]))


def test_kinds_of_request_are_in_their_evident_order() -> None:
    """A word, a sentence, a fact, an explanation, an essay."""
    guesses = [
        guess(text)
        for text in (
            "Is iron a metal? Answer yes or no.",
            "Describe iron in one sentence.",
            "Who was the first person on the moon?",
            "Explain photosynthesis.",
            "Write a comprehensive and detailed essay on iron.",
        )
    ]
    assert guesses == sorted(guesses)
    assert guesses[0] < 10 < 300 < guesses[-1]


def test_brevity_is_heard() -> None:
    """The same request, asked for briefly, is thought shorter."""
    assert guess("Explain photosynthesis briefly.") < guess("Explain photosynthesis.")


def test_what_is_copied_is_as_long_as_what_is_given() -> None:
    """A translation grows with its text; a summary does so only up to a point."""
    text = "The ship left the harbour at dawn. "
    assert guess(f"Translate: {text * 20}") > 5 * guess(f"Translate: {text * 2}")
    assert guess(f"Summarize: {text * 50}") < guess(f"Translate: {text * 50}")


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("Explain it in 200 words.", 200, 400),
        ("Write a 500-word story.", 500, 900),
        ("Give me three paragraphs about iron.", 200, 500),
        ("List ten ideas.", 150, 400),
        ("Use at most 50 tokens.", 40, 60),
    ],
)
def test_a_number_that_is_named_decides(text: str, low: float, high: float) -> None:
    """In words, paragraphs, items or tokens, in digits or by name."""
    assert low <= guess(text) <= high


@profile(max_examples=50)
@given(st.text(max_size=200))
def test_every_text_has_a_guess_in_reason(text: str) -> None:
    """Between one token and a few ten thousand, whatever numbers stand in it."""
    prompt = text.encode("utf-8", "replace").decode() + " write 99999999 words"
    assert 1 <= guess(prompt) <= 100_000
