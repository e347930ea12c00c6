"""A request in the scheduler's hands: the only mutable thing that the queue holds."""

from enum import Enum

import msgspec

from predictor.prediction import Prediction


class State(Enum):
    """Where a request is. It only ever moves to the right."""

    NEW = 0
    WAITING = 1
    RUNNING = 2
    FINISHED = 3


class Reason(Enum):
    """Why the scheduler gave a request up before it ran."""

    QUEUE_FULL = "queue_full"
    TENANT_FULL = "tenant_full"
    EXPIRED = "expired"


class QueuedRequest(msgspec.Struct, eq=False):
    """One request between admission and its end.

    `key_us` is its place in the order (lower first), `seq` breaks ties by admission. `prompt_tokens` and
    `body_bytes` are its size, `deadline_us` the time by which it must have been sent. `replica` is the engine
    it was sent to, `bound_to` the one that has computed its prompt already, `kept_at` the only one that can
    answer it: there lies the response that it goes on from. Times in microseconds of the proxy's clock.
    """

    seq: int
    request_id: str
    arrival_us: int
    prediction: Prediction
    class_name: str = "standard"
    tenant: str = "default"
    prompt_tokens: int = 0
    body_bytes: int = 0
    answers: int = 1
    streamed: bool = False
    deadline_us: int | None = None
    key_us: int = 0
    state: State = State.NEW
    bound_to: str | None = None
    kept_at: str | None = None
    replica: str | None = None
    dispatched_us: int | None = None
    charged: float = 0.0

    @property
    def work_tokens(self) -> float:
        """Predicted tokens that an engine computes for it: its prompt and all its answers."""
        return self.prompt_tokens + self.answers * self.prediction.tokens


class Changes(msgspec.Struct, frozen=True):
    """What the caller must do after a change of state: send `started`, refuse `refused` with its reason."""

    started: list[QueuedRequest] = []
    refused: list[tuple[QueuedRequest, Reason]] = []
