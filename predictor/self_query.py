"""Self-prediction: what a model would answer first tells much of how long its answer will be.

The query is the prompt itself, for one token, with the log-probabilities of chosen openings. Of the ways to
ask that bench/self_prediction compares this one tells most and costs least: nothing is added to the prompt,
so that the request after it finds all of it cached.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from predictor.request import Api

# What answers begin with, short ones and long ones. Each is one token in most vocabularies.
OPENINGS: Final = (
    *"0123456789", "\n", "Yes", "No", "The", "I", "A", "In", "It", "To", "Here", "Sure", "**", "#", "-", "```",
    '"', "{", "[", "(", "$", "This", "There", "You", "As", "We", "def", "1.", "First", "Step",
    "Hello", "Hi", "Thank", "Dear", "Title", "Once", "My", "If", "For", "When", "Let", "import", "<", "Sorry", "An",
    "On", "At", "One", "He", "She", "They", "That", "What", "How", "Why", "Not", "True", "False", "None", "Can", "Based",
    "Answer", "Subject", "Introduction", "Creating", "Overall", "Great", "Of", "From", "By", "With", "Your", "Our",
    "##", "###", ">", "•", "–", "*", "function", "class", "SELECT", "print", "public", "#include", "\\", "$$", "...",
)  # fmt: skip
# The ends of turns of the families in use: an answer that may end at once.
ENDS: Final = (
    "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>", "<|end|>", "<end_of_turn>", "<|return|>", "<|eom_id|>",
)  # fmt: skip
_NAMED: Final = {"\n": "newline"}
_OPENING_NAMES: Final = {text: f"self.opens.{_NAMED.get(text, text)}" for text in OPENINGS}
SELF_NAMES: Final = ("self.entropy", "self.top_logprob", "self.end_logprob", *_OPENING_NAMES.values())

# What decides how a prompt is rendered, and whose cache it is in. Nothing else goes along.
_RENDERS: Final = frozenset({
    "model", "messages", "prompt", "tools", "documents", "chat_template", "chat_template_kwargs",
    "add_generation_prompt", "continue_final_message", "reasoning_effort", "add_special_tokens",
    "truncate_prompt_tokens", "mm_processor_kwargs", "cache_salt", "lora_path",
})  # fmt: skip
_ASKED: Final = {"max_tokens": 1, "temperature": 0, "stream": False}
_MOST_BYTES: Final = 1 << 18
_LOWEST: Final = -30.0
_LISTED: Final = 20


class NoQuery(StrEnum):
    """Why a request cannot be asked about."""

    ROUTE = "route"
    FORM = "form"
    LONG = "long"


class SelfQuery(msgspec.Struct, frozen=True):
    """One request for one token with log-probabilities."""

    api: Api
    body: bytes


def build_query(raw: bytes, api: Api, *, tool_choice: str, token_ids: Sequence[int]) -> SelfQuery | NoQuery:
    """The query of a valid request body.

    `tool_choice`: what leaves the tools in the prompt at this engine. `token_ids`: of OPENINGS and ENDS, where
    the engine gives chosen tokens' log-probabilities (vLLM); empty: the 20 likeliest.
    """
    if len(raw) > _MOST_BYTES:
        return NoQuery.LONG
    try:
        body: dict[str, Any] = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        # What nobody reads on the way in may hold what only an engine takes, such as 1e999.
        return NoQuery.FORM
    if api is Api.MESSAGES:
        messages = _chat_of(body)
        if messages is None:
            return NoQuery.FORM
        body, api = {**body, "messages": messages}, Api.CHAT
    query = {name: value for name, value in body.items() if name in _RENDERS and value is not None} | _ASKED
    if token_ids:
        query["logprob_token_ids"] = list(token_ids)
    if api is Api.CHAT:
        query |= {"logprobs": True} if token_ids else {"logprobs": True, "top_logprobs": _LISTED}
        if "tools" in query:
            query["tool_choice"] = tool_choice
    elif api is Api.COMPLETIONS:
        if _is_several(body.get("prompt")):
            return NoQuery.FORM
        query["logprobs"] = 1 if token_ids else _LISTED
    else:
        return NoQuery.ROUTE
    return SelfQuery(api, msgspec.json.encode(query))


def _is_several(prompt: object) -> bool:
    """Whether a completion has more than one prompt; token ids are one."""
    return isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt)


def _chat_of(body: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Anthropic's route gives no log-probabilities, but its plain conversations render as a chat's do."""
    if body.get("tools"):
        return None
    turns = [(turn.get("role"), _plain(turn.get("content"))) for turn in body["messages"]]
    if body.get("system"):
        turns.insert(0, ("system", _plain(body["system"])))
    if any(text is None for _, text in turns):
        return None
    return [{"role": role, "content": text} for role, text in turns]


def _plain(content: object) -> str | None:
    """Text that is nothing but text; None otherwise."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0].get("text") if content[0].get("type") == "text" else None
    return content if isinstance(content, str) else None


def read_signals(answer: bytes) -> dict[str, float]:
    """The `self.*` features that an answer to a query holds. Raises ValueError where it holds none."""
    try:
        logprobs = msgspec.json.decode(answer)["choices"][0]["logprobs"]
        if "content" in logprobs:
            tokens = {one["token"]: one["logprob"] for one in logprobs["content"][0]["top_logprobs"]}
        else:
            tokens = logprobs["top_logprobs"][0]
        found = {str(token): float(value) for token, value in tokens.items()}
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"no log-probabilities in the answer: {error!r}") from error
    return signals_of(found)


def signals_of(tokens: Mapping[str, float]) -> dict[str, float]:
    """`self.*` features of the first place's distribution: token text -> natural log-probability.

    An opening that is not listed is at most as likely as the least likely one that is. Raises ValueError
    for an empty distribution or one that is not of numbers.
    """
    if not tokens or any(math.isnan(value) or value > 0.01 for value in tokens.values()):
        raise ValueError("no log-probabilities in the answer")
    kept = {token: max(_LOWEST, value) for token, value in tokens.items()}
    least = min(kept.values())
    signals = {name: kept.get(text, least) for text, name in _OPENING_NAMES.items()}
    signals["self.entropy"] = -sum(math.exp(value) * value for value in kept.values())
    signals["self.top_logprob"] = max(kept.values())
    signals["self.end_logprob"] = max((kept[end] for end in ENDS if end in kept), default=least)
    return signals
