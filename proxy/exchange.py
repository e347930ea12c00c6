"""One request's life in the proxy, from its first byte to its one end: what was known, and when."""

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from predictor.features.grams import pack_grams
from predictor.records import RECORD_VERSION, Outcome, TrafficRecord
from predictor.request import Api, RequestBody, prompt_characters
from proxy.answers import Usage
from proxy.identity import Identity
from proxy.ranking import NEUTRAL, Estimate

if TYPE_CHECKING:
    from proxy.spans import RequestSpan

_LONGEST_LOGGED_CHARACTERS: Final = 1 << 18


class Asked(msgspec.Struct, frozen=True):
    """A self-prediction came in time: from which engine, and how much of its prompt was cached before."""

    engine: str
    cached_before: int


class Watched(NamedTuple):
    """By which tickets the guardrail and the shadow know a request that an engine has begun; None: not sampled."""

    ticket: int
    sampled: int | None


class Exchange(msgspec.Struct, eq=False):
    """Filled in on the way; `record` makes the traffic record of it. Times in microseconds of the clock.

    `attempts`: how often it was sent to an engine. `rank`: what the engine orders it by, lower first; None where
    it was told nothing. `watched`: None where its prediction is not held against what comes. `span`: None where
    nobody traces.
    """

    request_id: str
    api: Api
    arrival_us: int
    identity: Identity | None = None
    body: RequestBody | None = None
    estimate: Estimate | None = None
    asked: Asked | None = None
    key_us: int | None = None
    attempts: int = 0
    rank: int | None = None
    replica: str | None = None
    dispatched_us: int | None = None
    first_byte_us: int | None = None
    done_us: int | None = None
    status: int = 0
    usage: Usage | None = None
    engine_queue_ms: float | None = None
    finish_reason: str | None = None
    outcome: Outcome | None = None
    watched: Watched | None = None
    span: "RequestSpan | None" = None

    def end(self, outcome: Outcome) -> None:
        """Fix how it ended. The first end counts; there is only one."""
        if self.outcome is None:
            self.outcome = outcome

    def begin_again(self) -> None:
        """The engine took nothing of it; it is to be sent once more."""
        self.first_byte_us = self.done_us = None
        self.status = 0

    def actual_tokens(self) -> float | None:
        """Prompt and output tokens that the engine computed; None where it did not say."""
        if self.usage is None or self.usage.completion_tokens is None:
            return None
        return (self.usage.prompt_tokens or 0) + self.usage.completion_tokens

    def queue_s(self) -> float | None:
        """Seconds between arrival and dispatch; None where it was never sent."""
        return self._since_arrival(self.dispatched_us)

    def ttft_s(self) -> float | None:
        """Seconds between arrival and the answer's first byte."""
        return self._since_arrival(self.first_byte_us)

    def e2e_s(self) -> float | None:
        """Seconds between arrival and the answer's last byte."""
        return self._since_arrival(self.done_us)

    def _since_arrival(self, then_us: int | None) -> float | None:
        return None if then_us is None else (then_us - self.arrival_us) / 1e6

    def record(self, *, policy: str, mode: str, artifact: str, text_mode: str = "none") -> TrafficRecord:
        """The row of the traffic log; `text_mode` says what of the prompt goes into it."""
        body = self.body or RequestBody()
        usage = self.usage or Usage()
        features = self.estimate.features if self.estimate else None
        predicted = self.estimate.prediction if self.estimate else NEUTRAL
        return TrafficRecord(
            request_id=self.request_id,
            version=RECORD_VERSION,
            arrival_us=self.arrival_us,
            api=self.api.value,
            outcome=self.outcome or Outcome.INTERNAL_ERROR,
            status=self.status,
            model=body.model,
            class_name=self.identity.service.name if self.identity else "",
            tenant=self.identity.tenant if self.identity else "",
            replica=self.replica,
            stream=bool(body.stream),
            policy=policy,
            mode=mode,
            artifact=artifact,
            quantile=None if predicted is NEUTRAL else predicted.quantile,
            predicted_tokens=None if predicted is NEUTRAL else predicted.tokens,
            schema=features.schema.id if features else None,
            features=features.to_bytes() if features else None,
            key_us=self.key_us,
            max_tokens=body.token_limit,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.completion_tokens,
            finish_reason=self.finish_reason,
            queue_s=self.queue_s(),
            ttft_s=self.ttft_s(),
            e2e_s=self.e2e_s(),
            grams=self._grams() if text_mode == "hashed" else None,
            body=self._text() if text_mode == "full" else None,
        )

    def _grams(self) -> bytes | None:
        features = self.estimate.features if self.estimate else None
        if features is None or features.grams is None or self.outcome is not Outcome.COMPLETED:
            return None
        return pack_grams(features.grams)

    def _text(self) -> RequestBody | None:
        """The body of an answer that can be learned from; a very long one would fill the disk."""
        if self.body is None or self.outcome is not Outcome.COMPLETED:
            return None
        return self.body if prompt_characters(self.body) <= _LONGEST_LOGGED_CHARACTERS else None
