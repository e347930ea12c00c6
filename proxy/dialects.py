"""How each API's answers are read: OpenAI's, its responses, Anthropic's messages, SGLang's /generate. Pure."""

import re
from typing import Final, TypeVar

import msgspec

from predictor.request import Api
from proxy.answers import Answer, Count, Dialect, PromptDetails, Usage, reason_of

_Shape = TypeVar("_Shape")
_NULL: Final = msgspec.Raw(b"null")


def decode_answer(raw: bytes, api: Api = Api.CHAT) -> Answer:
    """Read an answer; what has another shape than expected is left out. Raises ValueError: it is no JSON."""
    return DIALECTS[api].decode(raw)


class _Choice(msgspec.Struct, frozen=True):
    finish_reason: str | None = None


class _EngineTimes(msgspec.Struct, frozen=True):
    queue_time_ms: float | None = None


class _OpenAI(msgspec.Struct, frozen=True):
    choices: list[_Choice] | None = None
    metrics: _EngineTimes | None = None
    # A union with None would make msgspec forget that it is raw.
    usage: msgspec.Raw = _NULL


class _Why(msgspec.Struct, frozen=True):
    reason: str | None = None


class _Response(msgspec.Struct, frozen=True):
    status: str | None = None
    incomplete_details: _Why | None = None
    metrics: _EngineTimes | None = None
    usage: msgspec.Raw = _NULL


class _ResponseEvent(_Response, frozen=True):
    """A whole response, or an event that carries one."""

    response: _Response | None = None


class _ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: Count = None
    output_tokens: Count = None
    input_tokens_details: PromptDetails | None = None


class _Delta(msgspec.Struct, frozen=True):
    stop_reason: str | None = None


class _Start(msgspec.Struct, frozen=True):
    usage: msgspec.Raw = _NULL


class _Message(msgspec.Struct, frozen=True):
    """A whole message, or one of the events `message_start` and `message_delta`."""

    stop_reason: str | None = None
    delta: _Delta | None = None
    message: _Start | None = None
    usage: msgspec.Raw = _NULL


class _MessageUsage(msgspec.Struct, frozen=True):
    """`input_tokens` are only those that were neither read from nor written to a cache."""

    input_tokens: Count = None
    output_tokens: Count = None
    cache_read_input_tokens: Count = None
    cache_creation_input_tokens: Count = None


class _Finish(msgspec.Struct, frozen=True):
    type: str | None = None


class _MetaInfo(msgspec.Struct, frozen=True):
    finish_reason: _Finish | None = None
    prompt_tokens: Count = None
    completion_tokens: Count = None
    cached_tokens: Count = None


class _Generated(msgspec.Struct, frozen=True):
    meta_info: _MetaInfo | None = None


_ANYTHING: Final = msgspec.json.Decoder()
_OPENAI: Final = msgspec.json.Decoder(_OpenAI)
_OPENAI_USAGE: Final = msgspec.json.Decoder(Usage | None, strict=False)
_RESPONSE: Final = msgspec.json.Decoder(_ResponseEvent)
_RESPONSE_USAGE: Final = msgspec.json.Decoder(_ResponseUsage | None, strict=False)
_MESSAGE: Final = msgspec.json.Decoder(_Message)
_MESSAGE_USAGE: Final = msgspec.json.Decoder(_MessageUsage | None, strict=False)
_GENERATED: Final = msgspec.json.Decoder(_Generated | list[_Generated], strict=False)


def _openai(raw: bytes) -> Answer:
    answer = _decode(_OPENAI, raw, _OpenAI())
    return Answer(
        choices=None if answer.choices is None else len(answer.choices),
        finish_reason=reason_of(choice.finish_reason for choice in answer.choices or ()),
        usage=_decode(_OPENAI_USAGE, answer.usage, None),
        engine_queue_ms=answer.metrics.queue_time_ms if answer.metrics else None,
    )


def _responses(raw: bytes) -> Answer:
    event = _decode(_RESPONSE, raw, _ResponseEvent())
    response = event.response or event
    why = response.incomplete_details.reason if response.incomplete_details else None
    ended = response.status not in (None, "in_progress", "queued")
    usage = _decode(_RESPONSE_USAGE, response.usage, None)
    return Answer(
        finish_reason=("length" if why == "max_output_tokens" else why or response.status) if ended else None,
        usage=usage and Usage(usage.input_tokens, usage.output_tokens, usage.input_tokens_details),
        engine_queue_ms=response.metrics.queue_time_ms if response.metrics else None,
    )


def _messages(raw: bytes) -> Answer:
    message = _decode(_MESSAGE, raw, _Message())
    usage = _decode(_MESSAGE_USAGE, message.message.usage if message.message else message.usage, None)
    reason = message.delta.stop_reason if message.delta else message.stop_reason
    return Answer(finish_reason=reason, usage=usage and _openai_usage(usage))


def _openai_usage(usage: _MessageUsage) -> Usage:
    cached = usage.cache_read_input_tokens
    prompt = usage.input_tokens
    if prompt is not None:
        prompt += (cached or 0) + (usage.cache_creation_input_tokens or 0)
    return Usage(prompt, usage.output_tokens, None if cached is None else PromptDetails(cached))


def _generated(raw: bytes) -> Answer:
    """SGLang's /generate: one answer, or a list of them."""
    found = _decode(_GENERATED, raw, _Generated())
    metas = [one.meta_info or _MetaInfo() for one in (found if isinstance(found, list) else [found])]
    usage: Usage | None = None
    for meta in metas:
        if meta.completion_tokens is not None:
            details = None if meta.cached_tokens is None else PromptDetails(meta.cached_tokens)
            one = Usage(meta.prompt_tokens, meta.completion_tokens, details)
            usage = DIALECTS[Api.GENERATE].merge(usage, one)
    reason = reason_of(meta.finish_reason.type for meta in metas if meta.finish_reason)
    return Answer(choices=len(metas), finish_reason=reason, usage=usage)


def _decode(decoder: "msgspec.json.Decoder[_Shape]", raw: bytes | msgspec.Raw, otherwise: _Shape) -> _Shape:
    """An engine that sends another shape has said nothing; one that sends no JSON is a ValueError."""
    try:
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError:
            _ANYTHING.decode(raw)
            return otherwise
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


_ANY_DATA: Final = re.compile(rb"(?m)^data:")
_OPENAI_TELLING: Final = re.compile(rb'"finish_reason":\s*"|"usage":\s*\{|"error"')

DIALECTS: Final = {
    Api.CHAT: Dialect(_openai, _OPENAI_TELLING, _ANY_DATA),
    Api.COMPLETIONS: Dialect(_openai, _OPENAI_TELLING, _ANY_DATA),
    # `created` and `in_progress` are sent before the engine has looked at the request.
    Api.RESPONSES: Dialect(
        _responses,
        re.compile(rb'"type":\s*"response\.(?:completed|incomplete|failed|cancelled)"|"error"'),
        re.compile(rb'"type":\s*"response\.[a-z_.]*(?:delta|done|completed|incomplete|failed)"'),
    ),
    Api.MESSAGES: Dialect(
        _messages,
        re.compile(rb'"type":\s*"message_(?:start|delta)"|"error"'),
        re.compile(rb'"type":\s*"(?:message_start|content_block_start|message_delta)"'),
        heralds=re.compile(rb'"type":\s*"message_start"'),
    ),
    Api.GENERATE: Dialect(_generated, re.compile(rb'"finish_reason":\s*\{|"error"'), _ANY_DATA, sums=True),
}
