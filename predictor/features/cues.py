"""Words that tell the kind of answer, looked up by hash: one table gather for the whole text."""

from typing import Final

import numpy as np
import numpy.typing as npt

from predictor.features.ngrams import UintArray, hash_word

# Each group becomes one feature: how many of its words the text has.
CUE_WORDS: Final[dict[str, str]] = {
    "list": "list lists enumerate bullet bullets outline name names items steps tips ideas reasons examples ways",
    "long": "essay story article report comprehensive detailed detail thorough thoroughly elaborate depth guide "
    "tutorial blog chapter novel proposal paper letter speech script plan analysis discuss extensively",
    "explain": "explain describe why how tell reasoning reason step describe discuss think discussion",
    "short": "briefly brief short concise concisely only just one-word single quick quickly shortly simply "
    "succinct succinctly terse tldr",
    "choice": "options option choices choose which following correct select choice pick answer",
    "binary": "yes no true false whether",
    "question": "what who when where whom whose",
    "code": "code function python javascript java program script sql html css class implement bash regex api "
    "react rust typescript algorithm compile debug bug",
    "control": "def return for while if else elif import print in len range append assert",
    "math": "prove proof solve calculate compute derivative integral equation theorem sum probability evaluate "
    "maximum minimum frac sqrt int lim matrix",
    "quantity": "how many much total each every per times half twice more less than percent cost costs remaining "
    "left altogether",
    "translate": "translate translation translated into french spanish german english chinese japanese italian",
    "summarize": "summarize summarise summary tldr abstract condense key points",
    "rewrite": "rewrite rephrase paraphrase edit improve correct fix proofread revise grammar edited shorten",
    "classify": "classify classification sentiment category categorize label positive negative identify detect",
    "extract": "extract find give fill retrieve parse entities keywords locate",
    "creative": "poem haiku song lyrics joke imagine roleplay character fiction dialogue creative rap limerick "
    "invent pretend scene",
    "write": "write generate create compose draft make produce build design develop",
    "format": "json table markdown csv xml yaml format formatted schema template field fields",
    "polite": "please thanks thank hi hello hey could would can",
    "compare": "compare contrast difference differences versus vs between pros cons advantages disadvantages",
    "more": "continue more another again next expand further go",
    "shot": "input output example q a context passage question response instruction task",
    "number": "one two three four five six seven eight nine ten dozen hundred",
    "unit_word": "word words",
    "unit_sentence": "sentence sentences line lines bullet",
    "unit_paragraph": "paragraph paragraphs page pages section sections chapter chapters stanza stanzas verses",
    "unit_item": "items examples ideas tips ways reasons steps points questions names things facts titles options "
    "suggestions bullets topics companies books people features benefits uses strategies tweets paragraphs "
    "sentences rows keywords variations headlines",
    "unit_token": "tokens token characters letters chars",
}
CUE_GROUPS: Final = tuple(CUE_WORDS)
NUMBER_WORDS: Final = {
    word: value
    for value, word in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), start=1)
}

_TABLE_BITS: Final = 16
_NO_CUE: Final = 0


def _build() -> tuple[npt.NDArray[np.int16], UintArray, npt.NDArray[np.float32]]:
    """Table from a hash's high bits to a word's number, the words' full hashes, and word by group."""
    words = sorted({word for text in CUE_WORDS.values() for word in text.split()})
    table = np.full(1 << _TABLE_BITS, _NO_CUE, dtype=np.int16)
    hashes = np.zeros(len(words) + 1, dtype=np.uint32)
    groups = np.zeros((len(words) + 1, len(CUE_GROUPS)), dtype=np.float32)
    for number, word in enumerate(words, start=1):
        hashes[number] = hash_word(word)
        table[hashes[number] >> np.uint32(32 - _TABLE_BITS)] = number
        groups[number] = [word in CUE_WORDS[group].split() for group in CUE_GROUPS]
    return table, hashes, groups


_TABLE, _HASHES, _GROUPS = _build()


def cue_numbers(hashes: UintArray) -> npt.NDArray[np.int16]:
    """For each token the number of its cue word, 0 for none. Two equal 32-bit hashes pass for one word."""
    numbers = _TABLE[hashes >> np.uint32(32 - _TABLE_BITS)]
    return np.where(_HASHES[numbers] == hashes, numbers, np.int16(_NO_CUE))


def count_groups(numbers: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """How many of the tokens belong to each group of CUE_GROUPS."""
    counts = np.bincount(numbers, minlength=len(_HASHES)).astype(np.float32)
    counts[_NO_CUE] = 0
    return np.asarray(counts @ _GROUPS, dtype=np.float32)


def group_members(numbers: npt.NDArray[np.int16], group: str) -> npt.NDArray[np.intp]:
    """Positions of the tokens that belong to one group."""
    return np.flatnonzero(_GROUPS[numbers, CUE_GROUPS.index(group)])
