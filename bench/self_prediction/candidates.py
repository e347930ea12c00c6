"""The candidate queries: what is sent for a prompt, and which numbers are read from the answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from predictor.self_query import OPENINGS
from training.prompts import Prompt

# None: not told (JSON has no NaN).
Signal = Mapping[str, float | None]
CHAT: Final = "/v1/chat/completions"
GENERATE: Final = "/generate"
_FLOOR: Final = -20.0
NUMBER_QUESTION: Final = (
    "\n\nDo not answer yet. How many tokens will your complete answer to the above have? "
    "Reply with one number only."
)
_LONG_QUESTION: Final = (
    "\n\nDo not answer yet. Will your complete answer be longer than {} words? Reply yes or no."
)
_LETTER_QUESTION: Final = (
    "\n\nDo not answer yet. How long will your complete answer be? A: a word or two. B: one sentence. "
    "C: a paragraph. D: several paragraphs. E: more than a page. Reply with one letter only."
)
_LETTERS: Final = "ABCDE"
_DIGITS: Final = "0123456789"
# What an answer may begin with; <|im_end|> is the end itself. MORE: is a longer list worth its columns?
_FEW: Final = 39
CHOSEN: Final = (*OPENINGS[:_FEW], "<|im_end|>")
MORE: Final = OPENINGS[_FEW:]


Reading = Callable[[Sequence[dict[str, Any]]], Signal]


class Query(msgspec.Struct, frozen=True):
    """One way to ask. `bodies` makes the requests of a prompt; `readings` are ways to read their answers.

    `route`: where they go; GENERATE takes the prompt's token ids in place of its messages.
    """

    name: str
    bodies: Callable[[Prompt], list[dict[str, Any]]]
    readings: dict[str, Reading]
    route: str = CHAT


def messages_of(prompt: Prompt, question: str = "") -> list[dict[str, str]]:
    """The conversation, with the question appended inside the last user turn so that the prefix is shared."""
    turns = [msgspec.to_builtins(message) for message in prompt.messages]
    turns[-1]["content"] += question
    return turns


def asked(question: str, *, bare: bool = False, **more: Any) -> Callable[[Prompt], list[dict[str, Any]]]:
    """One request per prompt with `question` at its end; `bare`: nothing but what is named in `more`."""
    usual: dict[str, Any] = {} if bare else {"temperature": 0, **_LOGPROBS}

    def bodies(prompt: Prompt) -> list[dict[str, Any]]:
        return [{"messages": messages_of(prompt, question), **usual, **more}]

    return bodies


_LOGPROBS: Final = {"logprobs": True, "top_logprobs": 20}


def top_tokens(answer: dict[str, Any], place: int = 0) -> dict[str, float]:
    """Log-probability of each listed token at one place of the answer; empty where the answer is shorter."""
    content = answer["choices"][0]["logprobs"]["content"] or []
    if len(content) <= place:
        return {}
    return {entry["token"]: max(_FLOOR, entry["logprob"]) for entry in content[place]["top_logprobs"]}


def _entropy(tokens: dict[str, float]) -> float:
    return -sum(math.exp(value) * value for value in tokens.values())


def _first_token(answers: Sequence[dict[str, Any]]) -> Signal:
    """Every listed token of the first place by name, and the distribution's entropy."""
    tokens = top_tokens(answers[0])
    return {f"token:{token}": value for token, value in tokens.items()} | entropy_and_best(tokens)


def entropy_and_best(tokens: dict[str, float]) -> dict[str, float]:
    """What the shape of a distribution tells, whatever its tokens are."""
    return {"entropy": _entropy(tokens), "best": max(tokens.values(), default=_FLOOR)}


def stated(answers: Sequence[dict[str, Any]]) -> Signal:
    """The number that the model says."""
    text = answers[0]["choices"][0]["message"]["content"] or ""
    digits = "".join(character for character in text if character in _DIGITS)
    return {"stated": float(digits) if digits else None}


def stated_and_expected(answers: Sequence[dict[str, Any]]) -> Signal:
    """The same, and what its digits would be on average, by place."""
    signal = dict(stated(answers))
    for place in range(4):
        weights = {
            t.strip(): math.exp(v) for t, v in top_tokens(answers[0], place).items() if t.strip().isdigit()
        }
        total = sum(weights.values())
        signal[f"expected_{place}"] = sum(float(t) * w for t, w in weights.items()) / total if total else None
        signal[f"digit_mass_{place}"] = total
    return signal


def _digits_at_first(answers: Sequence[dict[str, Any]]) -> Signal:
    tokens = top_tokens(answers[0])
    return {f"digit:{digit}": tokens.get(digit, _FLOOR) for digit in _DIGITS}


def _letters(answers: Sequence[dict[str, Any]]) -> Signal:
    tokens = {token.strip(): value for token, value in reversed(top_tokens(answers[0]).items())}
    signal = {letter: tokens.get(letter, _FLOOR) for letter in _LETTERS}
    weights = [math.exp(value) for value in signal.values()]
    mean = sum(place * weight for place, weight in enumerate(weights)) / sum(weights)
    return signal | {"expected": mean, "entropy": _entropy(tokens)}


def _thresholds(prompt: Prompt) -> list[dict[str, Any]]:
    return [
        {
            "messages": messages_of(prompt, _LONG_QUESTION.format(words)),
            "temperature": 0,
            "max_tokens": 1,
            **_LOGPROBS,
        }
        for words in (20, 100, 300)
    ]


def _yes_minus_no(answers: Sequence[dict[str, Any]]) -> Signal:
    signal = {}
    for place, answer in enumerate(answers):
        tokens = {token.strip().lower(): value for token, value in reversed(top_tokens(answer).items())}
        signal[f"yes_{place}"] = tokens.get("yes", _FLOOR) - tokens.get("no", _FLOOR)
    return signal


def vllm_queries(ids: dict[str, int], more: dict[str, int]) -> tuple[Query, ...]:
    """Every candidate on vLLM. `ids`, `more`: its ids of `CHOSEN` and `MORE`, read by `logprob_token_ids`."""
    digits = [ids[digit] for digit in _DIGITS if digit in ids]
    return (
        *asked_queries(),
        Query(
            "number by grammar",
            asked(NUMBER_QUESTION, max_tokens=4, structured_outputs={"regex": "[1-9][0-9]{0,3}"}),
            {"stated number": stated, "expectation over digits": stated_and_expected},
        ),
        Query(
            "plain prompt, chosen tokens",
            asked("", max_tokens=1, logprob_token_ids=list(ids.values())),
            {"plain, chosen tokens": _first_token},
        ),
        Query(
            "plain prompt, more chosen tokens",
            asked("", max_tokens=1, logprob_token_ids=list((ids | more).values())),
            {"plain, more chosen tokens": _first_token},
        ),
        Query(
            "number, chosen digits",
            asked(NUMBER_QUESTION, max_tokens=1, logprob_token_ids=digits),
            {"number query, chosen digits": _first_token},
        ),
    )


def asked_queries() -> tuple[Query, ...]:
    """The candidates that every engine takes."""
    return (
        Query("plain prompt", asked("", max_tokens=1), {"plain, first token": _first_token}),
        Query(
            "number, first token",
            asked(NUMBER_QUESTION, max_tokens=1),
            {"number query, first token": _first_token, "number query, first digit": _digits_at_first},
        ),
        Query("five lengths by letter", asked(_LETTER_QUESTION, max_tokens=1), {"letter A to E": _letters}),
        Query("longer than 20, 100, 300 words", _thresholds, {"three yes/no": _yes_minus_no}),
    )
