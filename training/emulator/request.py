"""What a client asks of the emulated engine: decoded and checked as vLLM does, with vLLM's error bodies."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from predictor.request import Api, Message, Part
from training.emulator.tokens import TokenIds, render, tokenize
from training.lengths import Turn

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

_MAX_N: Final = 1_024

_PROMPT_FIELD: Final = {
    Api.CHAT: "messages",
    Api.COMPLETIONS: "prompt",
    Api.RESPONSES: "input",
    Api.MESSAGES: "messages",
}


class ApiError(Exception):
    """A refusal with vLLM's error object: `{"error": {message, type, param, code}}`."""

    def __init__(
        self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    @property
    def found_by_validation(self) -> bool:
        """Whether vLLM's web framework refuses this before the route sees it."""
        return self.kind == "Bad Request"

    def body(self) -> dict[str, Any]:
        """The error object."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}

    def anthropic_body(self) -> dict[str, Any]:
        """The same in the envelope of /v1/messages."""
        return {"type": "error", "error": {"type": self.kind, "message": str(self)}}


class UnreadableBody(ApiError):
    """A body that vLLM's web framework cannot even parse: its own shape of error."""

    def __init__(self) -> None:
        super().__init__(400, "There was an error parsing the body", "Bad Request")

    def body(self) -> dict[str, Any]:
        """The framework's error object."""
        return {"detail": str(self)}


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`, with vLLM's extension."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class EngineBody(msgspec.Struct, frozen=True):
    """The body fields that decide what the engine does, over the four dialects."""

    model: str | None = None
    messages: list[Message] | None = None
    prompt: str | list[str | int | list[int]] | None = None
    input: str | list[Message] | None = None
    system: str | list[str | Part] | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: _Int64 = 0
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    min_tokens: int = 0
    n: int | None = None
    seed: int | None = None
    ignore_eos: bool = False
    temperature: float | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    cache_salt: str | None = None


class PromptInput(msgspec.Struct, frozen=True):
    """One prompt: who said what (to find its recorded length) and its tokens."""

    turns: tuple[Turn, ...]
    ids: TokenIds


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the engine can start on. `max_tokens` None: as many as fit. `n`: answers per prompt."""

    api: Api
    body: EngineBody
    prompts: tuple[PromptInput, ...]
    max_tokens: int | None
    priority: int
    n: int


def decode_ask(api: Api, raw: bytes, headers: Mapping[str, str]) -> Ask:
    """Decode and check a request; ApiError carries the refusal."""
    body = _decode(raw)
    if getattr(body, _PROMPT_FIELD[api]) is None:
        raise _validation_error("missing", f"body.{_PROMPT_FIELD[api]}", "Field required")
    if body.stream_options is not None and not body.stream:
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise ApiError(400, message, param="stream_options")
    max_tokens = _max_tokens(api, body)
    if max_tokens is not None and max_tokens < 1:
        message = (
            f"max_tokens must be at least 1, got {max_tokens}. (parameter=max_tokens, value={max_tokens})"
        )
        raise ApiError(400, message, param="max_tokens")
    return Ask(
        api=api,
        body=body,
        prompts=_prompts(api, body),
        max_tokens=max_tokens,
        priority=_priority(body, headers),
        n=_answers_per_prompt(api, body),
    )


def decode_tokenize(raw: bytes) -> list[int]:
    """Token ids of a /tokenize request, by `messages` or by `prompt`."""
    body = _decode(raw)
    if body.messages is not None:
        return [int(token) for token in tokenize(render(body.messages))]
    if isinstance(body.prompt, str):
        return [int(token) for token in tokenize(body.prompt)]
    raise _validation_error("missing", "body.prompt", "Field required")


def _decode(raw: bytes) -> EngineBody:
    # In two steps, as vLLM does: of a repeated key the last one counts, and the first is not even looked at.
    try:
        return msgspec.convert(_parse(raw), EngineBody, strict=False)
    except msgspec.ValidationError as error:
        raise _from_msgspec(str(error)) from error


def _parse(raw: bytes) -> Any:
    if not raw:
        raise _validation_error("missing", "body", "Field required")
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        raise _validation_error("json_invalid", f"body.{error.pos}", "JSON decode error") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UnreadableBody from error


def _from_msgspec(message: str) -> ApiError:
    what, _, where = message.partition(" - at `$")
    return _validation_error("type_error", "body" + re.sub(r"\[.*?\]", "", where.rstrip("`")), what)


def _validation_error(kind: str, where: str, message: str) -> ApiError:
    detail = {"type": kind, "loc": where, "msg": message}
    return ApiError(400, f"1 validation error:\n  {detail}", "Bad Request", where)


def _max_tokens(api: Api, body: EngineBody) -> int | None:
    if api is Api.CHAT and body.max_completion_tokens is not None:
        return body.max_completion_tokens
    if api is Api.RESPONSES:
        return body.max_output_tokens
    if api is Api.COMPLETIONS and body.max_tokens is None:
        return 16
    return body.max_tokens


def _answers_per_prompt(api: Api, body: EngineBody) -> int:
    if body.n is None or api not in (Api.CHAT, Api.COMPLETIONS):
        return 1
    if not 1 <= body.n <= _MAX_N:
        raise ApiError(400, f"n must be at least 1 and at most {_MAX_N}, got {body.n}.", param="n")
    if body.n > 1 and body.temperature == 0:
        raise ApiError(400, f"n must be 1 when using greedy sampling, got {body.n}.")
    return body.n


def _priority(body: EngineBody, headers: Mapping[str, str]) -> int:
    """The header beats the body; one that is no number is passed over, as in vLLM."""
    try:
        return int(headers.get("X-Vllm-Priority", body.priority))
    except ValueError:
        return body.priority


def _prompts(api: Api, body: EngineBody) -> tuple[PromptInput, ...]:
    if api is Api.COMPLETIONS:
        return _completion_prompts(body.prompt)
    said = body.input if api is Api.RESPONSES else body.messages
    turns = [Message("user", said)] if isinstance(said, str) else list(said or [])
    system = body.system or body.instructions
    if system:
        turns.insert(0, Message("system", system))
    return (PromptInput(tuple(turns), tokenize(render(turns))),)


def _completion_prompts(prompt: str | list[str | int | list[int]] | None) -> tuple[PromptInput, ...]:
    if not prompt:
        raise _validation_error(
            "value_error", "body.prompt", "Either prompt or prompt_embeds must be provided"
        )
    if isinstance(prompt, str):
        return (_text_prompt(prompt),)
    if all(isinstance(item, int) for item in prompt):
        return (PromptInput((), np.asarray(prompt, dtype=np.int64).astype(np.uint32)),)
    return tuple(_one_of_many(item) for item in prompt)


def _one_of_many(item: str | int | list[int]) -> PromptInput:
    if isinstance(item, str):
        return _text_prompt(item)
    return PromptInput((), np.asarray(item, dtype=np.int64).astype(np.uint32).reshape(-1))


def _text_prompt(text: str) -> PromptInput:
    return PromptInput((Message("user", text),), tokenize(text))
