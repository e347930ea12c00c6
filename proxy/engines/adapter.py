"""The protocol between the request's path and an engine's dialect."""

from typing import Protocol

import msgspec

from predictor.request import Api, RequestBody


class Turn(msgspec.Struct, frozen=True):
    """A request's place among all in flight. `number`: unique, lower first, over all tiers; `tier`: 0 is best."""

    number: int
    tier: int


class Abort(msgspec.Struct, frozen=True):
    """The POST that ends a request at the engine at once, where closing the connection is slow."""

    path: str
    body: bytes


class Outgoing(msgspec.Struct, frozen=True):
    """What goes to the engine: the body's bytes and the headers to add.

    `added_usage`: we asked for usage and the client did not. `rank`: what the engine orders this request by,
    lower first whatever the engine's own sign; None: it was told nothing. `abort`: None where closing the
    connection is all there is. `stored_as`: the id under which the engine keeps a response.
    """

    body: bytes
    headers: dict[str, str]
    added_usage: bool
    rank: int | None = None
    abort: Abort | None = None
    stored_as: str | None = None


class Load(msgspec.Struct, frozen=True):
    """What an engine says it runs and holds back, and the share of its KV cache in use."""

    running: int
    waiting: int
    kv_usage: float


class EngineAdapter(Protocol):
    """One engine's way to take a priority, to report usage, to be asked for its health and to be told to stop."""

    @property
    def kind(self) -> str:
        """vllm, sglang or generic."""
        ...

    @property
    def health_path(self) -> str:
        """A GET route without side effects, which tells whether the engine can serve."""
        ...

    def is_healthy(self, status: int) -> bool:
        """Whether this status of `health_path` means that it can."""
        ...

    @property
    def orders_requests(self) -> bool:
        """Whether the engine's own queue can follow our order; where not, the proxy has to hold."""
        ...

    def load(self, metrics: bytes) -> Load | None:
        """The gauges in the text of the engine's /metrics; None where they are not there."""
        ...

    def is_full(self, status: int, said: bytes) -> bool:
        """Whether this refusal means that the engine's own queue is full, and that it has not begun to work."""
        ...

    def outgoing(
        self, api: Api, raw: bytes, body: RequestBody, turn: Turn | None, request_id: str
    ) -> Outgoing:
        """Make the request for the engine.

        `raw` has been stripped of what steers the engine. `turn` None: leave the order to arrival, or to what
        a client that may do so has said. `request_id`: 32 hexadecimal digits.
        """
        ...
