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


class QueuedRequest(msgspec.Struct, eq=False):
    """One request between admission and its end.

    `key_us` is its place in the order (lower first), `seq` breaks ties by admission. `replica` is the engine
    it was dispatched to. Times in microseconds of the proxy's clock.
    """

    seq: int
    request_id: str
    arrival_us: int
    prediction: Prediction
    key_us: int = 0
    tenant: str = "default"
    class_name: str = "standard"
    state: State = State.NEW
    replica: str | None = None
    dispatched_us: int | None = None
