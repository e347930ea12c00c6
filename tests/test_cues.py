"""Words and phrases that tell the kind of answer: each is found, in any case and place, and no other is."""

import numpy as np
import pytest
from rankers import small_head

from predictor.features.cues import CUE_GROUPS, CUE_PHRASES, CUE_WORDS
from predictor.features.extractor import FeatureExtractor
from predictor.features.view import read_view
from predictor.history import NO_HISTORY
from predictor.request import body_from_dict

EXTRACTOR = FeatureExtractor(small_head())


def cues(text: str) -> dict[str, float]:
    """How often each group occurs in a prompt."""
    body = body_from_dict({"prompt": text})
    named = EXTRACTOR.extract(body, read_view(body), NO_HISTORY).named()
    return {group: round(float(np.expm1(named[f"cue.{group}"]))) for group in CUE_GROUPS}


@pytest.mark.parametrize("group", CUE_WORDS)
def test_every_word_of_a_group_is_found(group: str) -> None:
    """At the start, in the middle, at the end, in capitals, before a mark."""
    for word in CUE_WORDS[group].split():
        assert cues(word)[group] == 1, word
        assert cues(f"Zzz {word.upper()}, zzz")[group] == 1, word


@pytest.mark.parametrize("group", CUE_PHRASES)
def test_every_phrase_of_a_group_is_found(group: str) -> None:
    """As two neighbouring words, and not when something stands between them."""
    for phrase in CUE_PHRASES[group]:
        assert cues(f"Zzz {phrase} zzz")[group] >= 1, phrase
        left, _, right = phrase.partition(" ")
        assert cues(f"{left} zzz {right}")[group] == 0, phrase


def test_other_words_are_no_cues() -> None:
    """Words that are not in the lexicon, or only contain one that is, count nowhere."""
    assert not any(cues("zebras listless tablecloth barcodes xenon quux").values())
    assert not any(cues("翻译 это 123").values())


def test_occurrences_add_up() -> None:
    """Three times is more than once."""
    assert cues("list list list")["list"] == 3
