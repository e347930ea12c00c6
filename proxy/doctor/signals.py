"""What the engine can tell of an answer's length before it is given, what asking costs, and whether it is true."""

import asyncio
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from proxy.doctor.findings import Finding, note, unproven
from proxy.doctor.target import Body, Target, Timed, user

SHORT: Final = (
    "What is the capital of France? Answer with one word.",
    "Is water wet? Answer yes or no.",
    "What is 2 + 3? Only the number.",
    "Translate 'dog' into Spanish, one word.",
    "Name one primary colour.",
    "Which year did the Titanic sink?",
)
LONG: Final = (
    "Write a detailed story about a dragon who learns to bake.",
    "Explain step by step how a computer processor works.",
    "Write an essay about the causes of the First World War.",
    "Describe in detail how to plan a week in Rome.",
    "Compare Python and Java for large projects, with examples.",
    "List twenty tips for a healthy life and explain each.",
)
_NUMBER: Final = (
    "\n\nDo not answer yet. How many words will your complete answer have? Reply with a number only."
)
_LONGER: Final = "\n\nDo not answer yet. Will your complete answer be longer than 50 words? Reply yes or no."
_PATTERN: Final = "[1-9][0-9]{0,3}"
_FLOOR: Final = -20.0
_INFORMATIVE: Final = 0.75
_ASK: Final[Body] = {"temperature": 0, "logprobs": True, "top_logprobs": 20}
_CONSTRAINT: Final[Mapping[str, Body]] = {
    "vllm": {"structured_outputs": {"regex": _PATTERN}},
    "sglang": {"regex": _PATTERN},
}


async def check_signals(target: Target) -> list[Finding]:
    """Ask about a small built-in set of prompts whose answers are plainly short or long."""
    numbers = await _ask_all(target, _NUMBER, {"max_tokens": 4, **_CONSTRAINT.get(target.adapter.kind, {})})
    if not numbers[0].ok:
        return [unproven("self-prediction", f"the query is refused with status {numbers[0].status}")]
    longer = await _ask_all(target, _LONGER, {"max_tokens": 1})
    return [
        note("self-prediction", f"offered: {', '.join(_offered(target, numbers, longer))}"),
        note("self-prediction cost", _cost(numbers)),
        note("self-prediction worth", _worth(numbers, longer)),
    ]


async def _ask_all(target: Target, question: str, more: Body) -> list[Timed]:
    bodies = [{"messages": user(prompt + question), **_ASK, **more} for prompt in (*SHORT, *LONG)]
    first = await target.chat(bodies[0])
    if not first.ok:
        return [first]
    return [first, *await asyncio.gather(*(target.chat(body) for body in bodies[1:]))]


def _offered(target: Target, numbers: Sequence[Timed], longer: Sequence[Timed]) -> list[str]:
    constrained = all(re.fullmatch(_PATTERN, text_of(one).strip()) for one in numbers)
    offered = ["a number by grammar" if constrained else "a number, not forced"]
    most = max((len(top_tokens(one)) for one in longer), default=0)
    offered.append(f"{most} first-token log-probabilities" if most else "no log-probabilities")
    settings = target.facts.sglang
    if settings is not None and settings.hidden_states:
        offered.append("the prompt's last hidden state")
    return offered


def _cost(numbers: Sequence[Timed]) -> str:
    alone_s = numbers[0].done_s - numbers[0].sent_s
    crowd_s = statistics.median(one.done_s - one.sent_s for one in numbers[1:])
    tokens = statistics.median(one.prompt_tokens or 0 for one in numbers)
    return (
        f"{alone_s:.2f} s alone, {crowd_s:.2f} s among twelve, {tokens:.0f} prompt tokens and at most 4 more"
    )


def _worth(numbers: Sequence[Timed], longer: Sequence[Timed]) -> str:
    stated = accuracy([_stated(one) for one in numbers])
    doubt = accuracy([_yes_minus_no(one) for one in longer])
    best = max(stated, doubt)
    verdict = "informative" if best >= _INFORMATIVE else "not informative on this model: leave it off"
    return (
        f"{verdict}; {stated:.0%} of pairs right by the number, {doubt:.0%} by yes against no (50%: chance)"
    )


def accuracy(values: Sequence[float]) -> float:
    """Share of (short, long) pairs told apart; `values` in the order of SHORT, then LONG. Ties count half."""
    short, long = values[: len(SHORT)], values[len(SHORT) :]
    pairs = [(one, other) for one in short for other in long]
    return sum((a < b) + 0.5 * (not a < b and not a > b) for a, b in pairs) / len(pairs)


def text_of(seen: Timed) -> str:
    """The words of a chat answer."""
    message = _choice(seen).get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""


def top_tokens(seen: Timed) -> dict[str, float]:
    """The log-probabilities listed for the first token of a chat answer; empty where there are none."""
    try:
        return {
            one.token: one.logprob
            for one in msgspec.convert(_choice(seen), _Choice).logprobs.content[0].top_logprobs
        }
    except (msgspec.ValidationError, IndexError):
        return {}


class _Token(msgspec.Struct):
    token: str
    logprob: float


class _Place(msgspec.Struct):
    top_logprobs: list[_Token]


class _Logprobs(msgspec.Struct):
    content: list[_Place]


class _Choice(msgspec.Struct):
    logprobs: _Logprobs


def _choice(seen: Timed) -> dict[str, Any]:
    document = seen.document
    choices = document.get("choices") if isinstance(document, dict) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _stated(seen: Timed) -> float:
    """The number that the model stated; where it stated none, nothing is known."""
    digits = re.search(r"\d+", text_of(seen))
    return float(digits[0]) if digits else math.nan


def _yes_minus_no(seen: Timed) -> float:
    tokens = {token.strip().lower(): value for token, value in reversed(top_tokens(seen).items())}
    return tokens.get("yes", _FLOOR) - tokens.get("no", _FLOOR)
