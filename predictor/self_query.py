"""Self-prediction: what a model would answer first tells much of how long its answer will be.

The query is the prompt itself, for one token, with the log-probabilities of chosen openings. Of the ways to
ask that bench/self_prediction compares this one tells most and costs least: nothing is added to the prompt,
so that the request after it finds all of it cached.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
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
    "truncate_prompt_tokens", "mm_processor_kwargs", "cache_salt", "extra_key", "lora_path",
})  # fmt: skip
# Of these, what /generate takes beside its token ids; the rest is in the ids by then.
_BESIDE_IDS: Final = frozenset({"text", "input_ids", "cache_salt", "extra_key", "lora_path"})
_ASKED: Final = {"max_tokens": 1, "temperature": 0, "stream": False}
_ASKED_BY_IDS: Final = {
    "sampling_params": {"max_new_tokens": 1, "temperature": 0},
    "return_logprob": True,
    "return_text_in_logprobs": True,
}
_NATIVE_MEDIA: Final = ("image_data", "video_data", "audio_data", "input_embeds")
_TEXT_PARTS: Final = ("text", "input_text", "output_text")
_MOST_BYTES: Final = 1 << 18
_LOWEST: Final = -30.0
_LISTED: Final = 20


class NoQuery(StrEnum):
    """Why a request cannot be asked about."""

    ROUTE = "route"
    FORM = "form"
    LONG = "long"


class SelfQuery(msgspec.Struct, frozen=True):
    """One request for one token with log-probabilities.

    `render`: what the engine's /tokenize is asked first; `with_tokens` puts its answer into the body.
    """

    api: Api
    body: bytes
    render: bytes | None = None

    def with_tokens(self, answer: bytes) -> "SelfQuery":
        """The query by the token ids of its prompt. Raises ValueError where the answer holds none."""
        try:
            tokens = msgspec.json.decode(answer, type=_Tokens).tokens
        except msgspec.DecodeError as error:
            raise ValueError(f"no tokens in the answer: {error}") from error
        return SelfQuery(self.api, b'{"input_ids":' + msgspec.json.encode(tokens) + b"," + self.body[1:])


class _Tokens(msgspec.Struct):
    tokens: list[int]


def build_query(raw: bytes, api: Api, *, sglang: bool, token_ids: Sequence[int]) -> SelfQuery | NoQuery:
    """The query of a valid request body, as the engine in use takes it.

    `token_ids`: this engine's of OPENINGS and ENDS; empty: they are not known, and the 20 likeliest will do.
    """
    if len(raw) > _MOST_BYTES:
        return NoQuery.LONG
    try:
        body: dict[str, Any] = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        # What nobody reads on the way in may hold what only an engine takes, such as 1e999.
        return NoQuery.FORM
    if api is Api.GENERATE:
        return _native_query(body, token_ids)
    return _openai_query(body, api, sglang=sglang, token_ids=token_ids)


def _openai_query(
    body: dict[str, Any], api: Api, *, sglang: bool, token_ids: Sequence[int]
) -> SelfQuery | NoQuery:
    """Of a request to OpenAI's routes or Anthropic's, which both engines serve."""
    if api is Api.MESSAGES:
        messages = _chat_of(body)
        if messages is None:
            return NoQuery.FORM
        body, api = {**body, "messages": messages}, Api.CHAT
    if api not in (Api.CHAT, Api.COMPLETIONS):
        return NoQuery.ROUTE
    if api is Api.COMPLETIONS and _is_several(body.get("prompt")):
        return NoQuery.FORM
    renders = {name: value for name, value in body.items() if name in _RENDERS and value is not None}
    if "tools" in renders and api is Api.CHAT:
        renders["tool_choice"] = _tool_choice(body, sglang=sglang)
    if sglang and token_ids and not _holds_more_than_text(renders):
        return _two_steps(renders, api, token_ids)
    return SelfQuery(api, msgspec.json.encode(renders | _ASKED | _listed(api, () if sglang else token_ids)))


def _listed(api: Api, token_ids: Sequence[int]) -> dict[str, Any]:
    """Which log-probabilities are wanted, in the words of OpenAI's two routes; chosen tokens are vLLM's addition."""
    if api is Api.COMPLETIONS:
        listed: dict[str, Any] = {"logprobs": 1 if token_ids else _LISTED}
    else:
        listed = {"logprobs": True} if token_ids else {"logprobs": True, "top_logprobs": _LISTED}
    return listed | ({"logprob_token_ids": list(token_ids)} if token_ids else {})


def _tool_choice(body: Mapping[str, Any], *, sglang: bool) -> str:
    """What keeps the tools in the prompt where the request has them there: SGLang takes them out for "none"."""
    return "none" if not sglang or body.get("tool_choice") == "none" else "auto"


def _two_steps(renders: dict[str, Any], api: Api, token_ids: Sequence[int]) -> SelfQuery:
    """SGLang gives chosen tokens on /generate alone, which knows no conversations: those it renders first."""
    beside = {name: value for name, value in renders.items() if name in _BESIDE_IDS}
    prompt, render = renders.get("prompt"), None
    if api is Api.CHAT:
        render = msgspec.json.encode(renders)
    else:
        beside["input_ids" if isinstance(prompt, list) else "text"] = prompt
    return SelfQuery(Api.GENERATE, _by_ids(beside, token_ids), render)


def _native_query(body: Mapping[str, Any], token_ids: Sequence[int]) -> SelfQuery | NoQuery:
    """Of a request to SGLang's own route."""
    kept = {name: value for name, value in body.items() if name in _BESIDE_IDS and value is not None}
    text, ids = kept.get("text"), kept.get("input_ids")
    single = isinstance(text, str) if ids is None else isinstance(ids, list) and not _is_several(ids)
    if not token_ids:
        return NoQuery.ROUTE
    if not single or any(body.get(name) for name in _NATIVE_MEDIA):
        return NoQuery.FORM
    return SelfQuery(Api.GENERATE, _by_ids(kept, token_ids))


def _by_ids(prompt: dict[str, Any], token_ids: Sequence[int]) -> bytes:
    return msgspec.json.encode(prompt | _ASKED_BY_IDS | {"token_ids_logprob": list(token_ids)})


def _holds_more_than_text(renders: Mapping[str, Any]) -> bool:
    """Whether token ids alone are not all that the model is given: pictures, or an adapter named with the model."""
    parts = [turn.get("content") for turn in renders.get("messages") or () if isinstance(turn, dict)]
    media = any(
        isinstance(part, dict) and part.get("type") not in _TEXT_PARTS
        for content in parts
        if isinstance(content, list)
        for part in content
    )
    return media or ":" in str(renders.get("model", ""))


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
        found = {str(token): float(value) for token, value in _first_place(msgspec.json.decode(answer))}
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"no log-probabilities in the answer: {error!r}") from error
    return signals_of(found)


def _first_place(answer: dict[str, Any]) -> Iterable[tuple[str, float]]:
    """Token text and log-probability, of any of the three routes' answers."""
    if "meta_info" in answer:
        return [(text, value) for value, _, text in answer["meta_info"]["output_token_ids_logprobs"][0]]
    logprobs = answer["choices"][0]["logprobs"]
    if "content" in logprobs:
        return [(one["token"], one["logprob"]) for one in logprobs["content"][0]["top_logprobs"]]
    items: Iterable[tuple[str, float]] = logprobs["top_logprobs"][0].items()
    return items


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
