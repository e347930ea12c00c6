"""Words and phrases that tell the kind of answer, and the numbers beside units of length."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from predictor.features.tokens import Tokens, UintArray, hash_words, scalar

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
        "one word", "single word", "one -", "single number", "single letter", "one number", "a number",
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
    hash_words(word): value
    for value, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
        start=1,
    )
}
CUE_GROUPS: Final = (*CUE_WORDS, *CUE_PHRASES)
UNITS: Final = tuple(UNIT_WORDS)


_UNITS_READ: Final = 8
_REACH_TOKENS: Final = 3
_LARGEST_ASKED: Final = 20_000
_ZERO: Final = ord("0")


class Cues(NamedTuple):
    """`counts` has one value per CUE_GROUPS; `asked` per UNITS the largest number that stands before one."""

    counts: list[float]
    asked: list[float]


class _Lexicon(NamedTuple):
    """Words and pairs by hash. `places` leads from a hash times `factor`, its high bits, to an entry, `hashes` says
    whether the entry is the hash's own: two texts with one 32-bit hash pass for one another. Row i of `groups` holds
    the groups of entry i, padded with len(CUE_GROUPS); `units` its unit of length plus one, 0 where it is none."""

    factor: UintArray
    places: npt.NDArray[np.int16]
    hashes: UintArray
    groups: npt.NDArray[np.intp]
    units: npt.NDArray[np.int8]

    def find(self, hashes: UintArray) -> npt.NDArray[np.int16]:
        """The entry that each hash would have."""
        return self.places.take((hashes * self.factor) >> _SHIFT)


def _lexicon() -> _Lexicon:
    groups: dict[int, set[int]] = {}
    for number, members in enumerate((*(text.split() for text in CUE_WORDS.values()), *CUE_PHRASES.values())):
        for text in members:
            groups.setdefault(hash_words(text), set()).add(number)
    units = {
        hash_words(word): number for number, text in enumerate(UNIT_WORDS.values()) for word in text.split()
    }
    hashes = np.array(sorted({*groups, *units}), dtype=np.uint32)
    table = np.full((len(hashes), max(map(len, groups.values()))), len(CUE_GROUPS), dtype=np.intp)
    for entry, one in enumerate(hashes.tolist()):
        known = sorted(groups.get(one, ()))
        table[entry, : len(known)] = known
    unit_of = np.array([units.get(one, -1) + 1 for one in hashes.tolist()], dtype=np.int8)
    factor = _perfect_factor(hashes)
    places = np.zeros(1 << _TABLE_BITS, dtype=np.int16)
    places[(hashes * factor) >> _SHIFT] = np.arange(len(hashes))
    return _Lexicon(factor, places, hashes, table, unit_of)


def _perfect_factor(hashes: UintArray) -> UintArray:
    """The first odd factor that leads no two hashes to one place; with this many there is one in a hundred."""
    return next(
        factor
        for factor in map(scalar, range(0x9E3779B1, 2**32, 0x10DCD2))
        if len(np.unique((hashes * factor) >> _SHIFT)) == len(hashes)
    )


_TABLE_BITS: Final = 15
_SHIFT: Final = scalar(32 - _TABLE_BITS)
_LEXICON: Final = _lexicon()


def find_cues(tokens: Tokens) -> Cues:
    """Look every word and every pair of a text up."""
    hashes = np.concatenate((tokens.words, tokens.pairs))
    found = _LEXICON.find(hashes)
    places = (_LEXICON.hashes.take(found) == hashes).nonzero()[0]
    entries = found.take(places)
    groups = _LEXICON.groups.take(entries, axis=0).ravel()
    counts: list[float] = np.bincount(groups, minlength=len(CUE_GROUPS) + 1).tolist()[:-1]
    units = _LEXICON.units.take(entries)
    if not units.any():
        return Cues(counts, [0.0] * len(UNITS))
    measured = units.nonzero()[0][:_UNITS_READ]
    return Cues(counts, _asked(tokens, places.take(measured).tolist(), units.take(measured).tolist()))


def _asked(tokens: Tokens, places: list[int], units: list[int]) -> list[float]:
    """What the text asks for by number: "200 words", "three-paragraph", "10 great ideas"."""
    asked = [0.0] * len(UNITS)
    for place, unit in zip(places, units, strict=True):
        asked[unit - 1] = max(asked[unit - 1], _amount_before(tokens, place))
    return asked


def _amount_before(tokens: Tokens, place: int) -> float:
    """The number up to three tokens before a place; 0 where there is none."""
    # A pair whose hash is a unit's by chance has its place beyond the words.
    last = min(place, len(tokens.words)) - 1
    for index in range(last, max(-1, place - 1 - _REACH_TOKENS), -1):
        start = tokens.starts.item(index)
        if tokens.folded[start] == _ZERO:
            digits = tokens.raw[start : tokens.ends.item(index)]
            return min(float(digits), _LARGEST_ASKED) if digits.isdigit() and len(digits) <= 5 else 0.0
        number = NUMBER_WORDS.get(tokens.words.item(index))
        if number is not None:
            return float(number)
    return 0.0
