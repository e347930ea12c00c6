"""The emulated engine's inference: from a decoded request to sequences in the model and an answer."""

import itertools
import random
import time
from collections.abc import Callable
from typing import Final

import msgspec

from predictor.request import Api
from training.emulator.answer import Answer
from training.emulator.choice import Choice
from training.emulator.faults import Faults
from training.emulator.loop import EngineLoop
from training.emulator.metrics import EngineMetrics
from training.emulator.request import ApiError, Ask, PromptInput
from training.emulator.shapes import AnswerContext, AnswerShape
from training.emulator.shapes_messages import MessagesShape
from training.emulator.shapes_openai import ChatShape, CompletionShape
from training.emulator.shapes_responses import ResponsesShape
from training.emulator.stream import EventStream
from training.emulator.tokens import block_hashes
from training.engine.model import EngineModel
from training.engine.types import QueueFullError, Sequence
from training.engine.waiting import SchedulingPolicy
from training.lengths import AnswerLength, LengthTable
from training.profiles import EngineProfile

_SHAPES: Final[dict[Api, tuple[str, Callable[[Ask, AnswerContext], AnswerShape]]]] = {
    Api.CHAT: ("chatcmpl-", ChatShape),
    Api.COMPLETIONS: ("cmpl-", CompletionShape),
    Api.RESPONSES: ("resp_", ResponsesShape),
    Api.MESSAGES: ("chatcmpl-", MessagesShape),
}


class EmulatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the emulated engine is started; names and defaults are vLLM's where vLLM has them.

    metrics_stale_s: /metrics shows a picture at most this old (a real engine's are seconds old).
    keep_alive_s: an idle connection is closed after this. keep_received: how many requests
    `EmulatedEngine.received` remembers.
    """

    profile: EngineProfile
    served_model_name: str = "emulated"
    scheduling_policy: SchedulingPolicy = SchedulingPolicy.FCFS
    max_num_queued_reqs: int | None = None
    enable_prefix_caching: bool = True
    enable_prompt_tokens_details: bool = True
    enable_per_request_metrics: bool = True
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    keep_alive_s: float = 5.0
    metrics_stale_s: float = 0.0
    allow_faults: bool = False
    keep_received: int = 0
    api_key: str | None = None


class Received(msgspec.Struct, frozen=True):
    """A request as it reached the engine, for tests of what stands before it."""

    path: str
    headers: dict[str, str]
    body: bytes


class Inference:
    """One life of the engine: model, clock, metrics. A killed engine comes back with a new one."""

    def __init__(self, config: EmulatorConfig, lengths: LengthTable) -> None:
        self.config = config
        self.model = EngineModel(
            config.profile,
            config.scheduling_policy,
            max_num_queued_reqs=config.max_num_queued_reqs,
            max_jump=1,
        )
        self.loop = EngineLoop(self.model)
        self.metrics = EngineMetrics(
            self.model, config.served_model_name, prefix_caching=config.enable_prefix_caching
        )
        self._lengths = lengths
        self._ids = itertools.count(1)
        self._random = random.Random(config.seed)
        self._rendered: bytes | None = None
        self._rendered_s = 0.0

    def begin(
        self, ask: Ask, request_id: str | None, faults: Faults, stream: EventStream | None
    ) -> tuple[Answer, AnswerShape]:
        """Queue all sequences of a request, or none: ApiError says why."""
        self._check_model(ask.body.model)
        choices: dict[int, Choice] = {}
        sequences: list[Sequence] = []
        for prompt in ask.prompts:
            limit = self._token_limit(ask, prompt)
            for index in range(ask.n):
                sequence_id = next(self._ids)
                draw = sequence_id if ask.body.seed is None else ask.body.seed + index
                length = self._length(ask, prompt, limit, draw)
                choices[sequence_id] = self._choice(len(choices), prompt, length)
                sequences.append(self._sequence(sequence_id, ask, prompt, length))
        shape = self._shape(ask, request_id, faults)
        answer = Answer(choices, shape, stream, self.metrics.finished)
        self._submit(sequences, answer)
        if stream is not None:
            stream.send(shape.opening())
        return answer, shape

    def drop_unfinished(self, answer: Answer) -> None:
        """Free what the request still holds: its client went away."""
        if answer.running:
            for sequence_id in answer.choices:
                self.loop.abort(sequence_id)
            self.metrics.aborted()

    def render_metrics(self) -> bytes:
        """The text of /metrics, as old as the configuration lets it be."""
        now_s = time.monotonic()
        if self._rendered is None or now_s - self._rendered_s >= self.config.metrics_stale_s:
            self._rendered = self.metrics.render()
            self._rendered_s = now_s
        return self._rendered

    def _submit(self, sequences: list[Sequence], answer: Answer) -> None:
        try:
            for sequence in sequences:
                answer.choices[sequence.id].arrival_s = self.loop.submit(sequence, answer)
        except QueueFullError as error:
            self._withdraw(sequences)
            message = "The engine is busy: its request queue is full. Try again later or on another instance."
            raise ApiError(503, message, "Service Unavailable") from error
        except ValueError as error:
            self._withdraw(sequences)
            raise ApiError(400, str(error)) from error

    def _withdraw(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            self.loop.abort(sequence.id)

    def _check_model(self, model: str | None) -> None:
        known = self.config.served_model_name
        if model is not None and model != known:
            message = f"The model `{model}` does not exist. Valid aliases: {known}."
            raise ApiError(404, message, "NotFoundError", "model")

    def _token_limit(self, ask: Ask, prompt: PromptInput) -> int:
        room = self.config.profile.max_model_len - prompt.ids.size
        wanted = ask.max_tokens or room
        if room >= max(1, wanted):
            return wanted
        message = (
            f"This model's maximum context length is {self.config.profile.max_model_len} tokens. However, "
            f"the prompt has {prompt.ids.size} tokens and {ask.max_tokens or 1} more were asked for."
        )
        raise ApiError(400, message, param="input_tokens")

    def _length(self, ask: Ask, prompt: PromptInput, limit: int, draw: int) -> AnswerLength:
        recorded = self._lengths.answer(prompt.turns, draw)
        tokens = max(recorded.tokens, ask.body.min_tokens)
        if ask.body.ignore_eos or tokens > limit:
            return AnswerLength(limit, False)
        # A recording that ended at its own cap ends here as if by itself, if the client allows more.
        return AnswerLength(tokens, recorded.stopped or tokens < limit)

    def _choice(self, index: int, prompt: PromptInput, length: AnswerLength) -> Choice:
        block = self.config.profile.block_size
        return Choice(index, prompt.ids.size, prompt.ids.size // block * block, length)

    def _sequence(self, sequence_id: int, ask: Ask, prompt: PromptInput, length: AnswerLength) -> Sequence:
        # Without a prefix cache: one for each sequence, in which nobody else finds anything.
        salt = (ask.body.cache_salt or "") if self.config.enable_prefix_caching else f"alone {sequence_id}"
        hashes = block_hashes(prompt.ids, self.config.profile.block_size, salt)
        return Sequence(sequence_id, prompt.ids.size, length.tokens, ask.priority, hashes)

    def _shape(self, ask: Ask, request_id: str | None, faults: Faults) -> AnswerShape:
        prefix, shape = _SHAPES[ask.api]
        if request_id is not None:
            request_id = request_id.encode("utf-8", "replace").decode()
        context = AnswerContext(
            id=prefix + (request_id or f"{self._random.getrandbits(64):016x}"),
            model=self.config.served_model_name,
            created=int(time.time()),
            cached_tokens=self.config.enable_prompt_tokens_details,
            timing=self.config.enable_per_request_metrics,
            usage_lie=faults.usage,
        )
        return shape(ask, context)
