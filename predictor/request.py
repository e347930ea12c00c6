"""What a client asked for: one typed view of an OpenAI, Anthropic or SGLang request body, decoded once.

Only the fields that Headway reads are named; everything else passes through to the engine unread.
"""

from enum import StrEnum
from typing import Any, Final

import msgspec


class Api(StrEnum):
    """The dialect a scheduled route speaks; the value is the route's path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    GENERATE = "/generate"


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """One part of a multi-part message: text, an image, audio, a tool result, …"""

    type: str = "text"
    text: str | None = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation, or one input item of the responses API."""

    role: str = ""
    content: str | list[str | Part] | None = None
    type: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class ResponseFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    """`response_format` of chat and completions, or `text.format` of responses."""

    type: str = "text"
    # Empty, not None, where absent: a union with None would make msgspec forget that they are raw.
    json_schema: msgspec.Raw = msgspec.Raw()
    schema: msgspec.Raw = msgspec.Raw()


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`: whether the client asked for a usage event itself."""

    include_usage: bool | None = None


class Reasoning(msgspec.Struct, frozen=True):
    """`reasoning` of the responses API and `thinking` of the messages API."""

    effort: str | None = None
    type: str | None = None
    budget_tokens: int | None = None


class SamplingParams(msgspec.Struct, frozen=True):
    """`sampling_params` of SGLang's /generate."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    temperature: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    json_schema: str | None = None
    regex: str | None = None


class RequestBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a request body that Headway reads, over all dialects. Absent ones are None.

    `prompt` may hold text, texts, token ids, or lists of token ids. `input` is the responses API's, `text`
    SGLang's prompt (a string or strings) or the responses API's format object.
    """

    model: str | None = None
    messages: list[Message] | None = None
    prompt: str | list[str | int | list[int]] | None = None
    input: str | list[str | Message] | None = None
    input_ids: list[int | list[int]] | None = None
    text: Any = None
    system: str | list[str | Part] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: int | None = None

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    n: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    stop_sequences: list[str] | None = None
    seed: int | None = None
    logprobs: bool | int | None = None

    tools: list[msgspec.Raw] | None = None
    tool_choice: Any = None
    response_format: ResponseFormat | None = None
    structured_outputs: Any = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    thinking: Reasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    sampling: SamplingParams | list[SamplingParams] | None = msgspec.field(
        name="sampling_params", default=None
    )

    @property
    def sampling_params(self) -> SamplingParams | None:
        """SGLang's; of several, one for each prompt, the first."""
        if isinstance(self.sampling, list):
            return self.sampling[0] if self.sampling else None
        return self.sampling

    @property
    def token_limit(self) -> int | None:
        """The most output tokens that the request allows, whatever its API calls them."""
        sampling = self.sampling_params
        return (
            self.max_completion_tokens
            or self.max_tokens
            or self.max_output_tokens
            or (sampling.max_new_tokens if sampling else None)
        )

    @property
    def answer_count(self) -> int:
        """How many answers to each prompt the engine computes."""
        sampled = self.sampling_params.n if self.sampling_params else None
        return max(1, self.n or 1, self.best_of or 1, sampled or 1)


# Engines coerce `"7"` to 7 and `"true"` to true (pydantic's lax mode); strict=False reads what they read.
_DECODER: Final = msgspec.json.Decoder(RequestBody, strict=False)


def decode_body(raw: bytes) -> RequestBody:
    """Decode a request body.

    Raises `msgspec.DecodeError` where it is not JSON, its subclass `msgspec.ValidationError`, which names the
    path, where a field has the wrong type, and UnicodeDecodeError where a text that is read is not UTF-8.
    """
    return _DECODER.decode(raw)


def body_from_dict(row: dict[str, Any]) -> RequestBody:
    """The same view of a body that is already a dictionary, such as a row of a lengths file."""
    return decode_body(msgspec.json.encode(row))


def guessed_tokens(characters: int) -> int:
    """Tokens of so much text, where nobody has counted: English under the tokenizers in use has four characters each."""
    return characters // 4


def prompt_characters(body: RequestBody) -> int:
    """How much text a body asks the engine to read; token ids count as four characters each."""
    size = sum(_content_characters(message.content) for message in body.messages or ())
    size += _content_characters(body.system) + len(body.instructions or "")
    size += sum(len(tool) for tool in body.tools or ())
    for prompt in (body.prompt, body.input, body.text):
        size += _loose_characters(prompt)
    return size


def _content_characters(content: str | list[str | Part] | None) -> int:
    if content is None or isinstance(content, str):
        return len(content or "")
    return sum(len(part) if isinstance(part, str) else len(part.text or "") for part in content)


def _loose_characters(prompt: Any) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    if not isinstance(prompt, list):
        return 0
    if prompt and isinstance(prompt[0], int):
        return 4 * len(prompt)
    return sum(
        _content_characters(one.content) if isinstance(one, Message) else _loose_characters(one)
        for one in prompt
    )


class InferenceRequest(msgspec.Struct, frozen=True):
    """A request as it arrived. `arrival_us` is microseconds since the Unix epoch (see proxy.clock)."""

    request_id: str
    api: Api
    body: RequestBody
    arrival_us: int
    tenant: str = "default"
    class_name: str = "standard"
