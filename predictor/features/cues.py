"""Words and phrases that tell the kind of answer, looked up by hash: one table gather for a whole text."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from predictor.features.ngrams import IndexArray, Tokens, UintArray, hash_words

# Each group becomes one feature: how many of its words or two-word phrases the text has.
CUE_WORDS: Final[dict[str, str]] = {
    "list": "list lists enumerate bullet bullets outline names items steps tips ideas reasons examples ways",
    "long": "essay story article report comprehensive detailed detail thorough thoroughly elaborate depth guide "
    "tutorial blog chapter novel proposal paper letter speech plan analysis discuss extensively",
    "explain": "explain describe why how tell reasoning reason step discuss think discussion",
    "short": "briefly brief short concise concisely only just single quick quickly shortly simply succinct "
    "succinctly terse tldr",
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
    "translate": "translate translation translated french spanish german english chinese japanese italian",
    "summarize": "summarize summarise summary condense key points",
    "rewrite": "rewrite rephrase paraphrase edit improve fix proofread revise grammar edited shorten",
    "classify": "classify classification sentiment category categorize label positive negative identify detect",
    "extract": "extract find give fill retrieve parse entities keywords locate",
    "creative": "poem haiku song lyrics joke imagine roleplay character fiction dialogue creative rap limerick "
    "invent pretend scene",
    "write": "write generate create compose draft make produce build design develop",
    "format": "json table markdown csv xml yaml format formatted schema template field fields",
    "polite": "please thanks thank hi hello hey could would can",
    "compare": "compare contrast difference differences versus vs between pros cons advantages disadvantages",
    "more": "continue more another again next expand further go",
    "shot": "input output example q a context passage response instruction task",
    "number": "one two three four five six seven eight nine ten dozen hundred",
}
CUE_PHRASES: Final[dict[str, tuple[str, ...]]] = {
    "yes_or_no": ("yes or", "true or", "or no", "or false", "yes /", "true /", "y /"),
    "one_word": (
        "one word", "single word", "one - word", "single number", "single letter", "one number", "a number",
    ),
    "only": (
        "answer only", "only the", "just the", "reply with", "respond with", "answer with", "output only",
        "only output", "return only", "only return", "no explanation", "only one", "nothing else", "just answer",
    ),
    "one_sentence": ("one sentence", "single sentence", "a sentence", "one line", "single line"),
    "stepwise": ("step by", "by step", "your reasoning", "show your", "think step"),
    "in_detail": ("in detail", "in depth", "as possible", "at least", "more detail", "great detail", "all the"),
    "fact": (
        "what is", "who is", "who was", "when did", "when was", "where is", "which of", "what year", "is the",
    ),
    "how_to": ("how to", "how do", "how can", "how would", "how should", "can you", "help me"),
    "give": ("give me", "tell me", "list of", "write a", "write an", "create a", "generate a", "make a"),
}  # fmt: skip
UNIT_WORDS: Final[dict[str, str]] = {
    "word": "word words",
    "sentence": "sentence sentences line lines",
    "paragraph": "paragraph paragraphs page pages section sections chapter chapters stanza stanzas verses",
    "item": "items examples ideas tips ways reasons steps points questions names things facts titles options "
    "suggestions bullets topics companies books people features benefits uses strategies tweets rows keywords "
    "variations headlines",
    "token": "tokens token characters letters chars",
}
NUMBER_WORDS: Final = {
    word: value
    for value, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
        start=1,
    )
}
CUE_GROUPS: Final = (*CUE_WORDS, *CUE_PHRASES)
UNITS: Final = tuple(UNIT_WORDS)

_TABLE_BITS: Final = 16


class _Lexicon(NamedTuple):
    """`table` leads from a hash's high bits to an entry, `hashes` confirms it, `groups` is entry by group.

    Entry 0 stands for every word that is not in the lexicon.
    """

    table: npt.NDArray[np.int16]
    hashes: UintArray
    groups: npt.NDArray[np.float32]

    def entries(self, hashes: UintArray) -> npt.NDArray[np.int16]:
        """For each hash its entry. Two texts with equal 32-bit hashes pass for one another."""
        entries: npt.NDArray[np.int16] = self.table[hashes >> np.uint32(32 - _TABLE_BITS)]
        entries[self.hashes[entries] != hashes] = 0
        return entries

    def tally(self, entries: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        """How many of the entries belong to each group."""
        counts = np.bincount(entries, minlength=len(self.hashes)).astype(np.float32)
        return np.asarray(counts @ self.groups, dtype=np.float32)


def _lexicon(groups: dict[str, list[str]]) -> _Lexicon:
    texts = sorted({text for members in groups.values() for text in members})
    table = np.zeros(1 << _TABLE_BITS, dtype=np.int16)
    hashes = np.zeros(len(texts) + 1, dtype=np.uint32)
    membership = np.zeros((len(texts) + 1, len(groups)), dtype=np.float32)
    for entry, text in enumerate(texts, start=1):
        hashes[entry] = hash_words(text)
        table[hashes[entry] >> np.uint32(32 - _TABLE_BITS)] = entry
        membership[entry] = [text in members for members in groups.values()]
    return _Lexicon(table, hashes, membership)


_WORDS: Final = _lexicon({name: text.split() for name, text in (CUE_WORDS | UNIT_WORDS).items()})
_PHRASES: Final = _lexicon({name: list(phrases) for name, phrases in CUE_PHRASES.items()})
# For each entry of the words' lexicon the number of its unit plus one, 0 where it is no unit.
_UNIT_OF: Final = (_WORDS.groups[:, len(CUE_WORDS) :] @ np.arange(1, len(UNITS) + 1)).astype(np.int8)


class Cues(NamedTuple):
    """`counts` has one value per CUE_GROUPS; `unit_places` and `units` say where a unit of length stands."""

    counts: npt.NDArray[np.float32]
    unit_places: IndexArray
    units: npt.NDArray[np.int8]


def find_cues(tokens: Tokens) -> Cues:
    """Look every word and pair of a text up."""
    entries = _WORDS.entries(tokens.words)
    words = _WORDS.tally(entries)[: len(CUE_WORDS)]
    phrases = _PHRASES.tally(_PHRASES.entries(tokens.pairs))
    units = _UNIT_OF[entries]
    places = units.nonzero()[0]
    return Cues(np.concatenate((words, phrases)), places, units[places] - 1)
