"""The protocol between the request's path and an engine's dialect."""

from typing import Protocol

import msgspec

from predictor.request import Api, RequestBody


class Outgoing(msgspec.Struct, frozen=True):
    """What goes to the engine: the body's bytes and the headers to add. `added_usage`: we asked for usage."""

    body: bytes
    headers: dict[str, str]
    added_usage: bool


class Load(msgspec.Struct, frozen=True):
    """What an engine says it runs and holds back, and the share of its KV cache in use."""

    running: int
    waiting: int
    kv_usage: float


class EngineAdapter(Protocol):
    """One engine's way to take a priority and to report usage."""

    @property
    def kind(self) -> str:
        """vllm, sglang or generic."""
        ...

    @property
    def health_path(self) -> str:
        """A GET route without side effects that answers 200 when the engine can serve."""
        ...

    @property
    def takes_priority(self) -> bool:
        """Whether a priority can be sent at all."""
        ...

    def load(self, metrics: bytes) -> Load | None:
        """The gauges in the text of the engine's /metrics; None where they are not there."""
        ...

    def outgoing(self, api: Api, raw: bytes, body: RequestBody, priority: int | None) -> Outgoing:
        """Make the request for the engine. `priority`: lower first; None: leave the order to arrival."""
        ...
