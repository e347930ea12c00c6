"""What the proxy says of itself: one typed document for the status route, the live page and tests."""

import msgspec


class EngineStatus(msgspec.Struct, frozen=True):
    """One engine. `window_reason`: why its window is what it is.

    `version` and `models` as the engine tells them; `reports_cached`: whether its usage tells cached tokens,
    null where that was not seen yet. `priority`: unproven, honoured or ignored, after so many telling `pairs`.
    """

    url: str
    kind: str
    version: str | None
    models: list[str]
    reports_cached: bool | None
    available: bool
    running: int
    window: int | None
    window_reason: str
    priority: str
    pairs: int


class WaitingStatus(msgspec.Struct, frozen=True):
    """One request that waits; no text, no tenant's secrets."""

    request_id: str
    waited_s: float
    predicted_tokens: float
    place: int


class Status(msgspec.Struct, frozen=True):
    """The proxy now. `outcomes` counts ended requests by how they ended."""

    version: str
    mode: str
    policy: str
    max_overtake_s: float | None
    artifact: str
    draining: bool
    waiting: int
    running: int
    outcomes: dict[str, int]
    engines: list[EngineStatus]
    first_waiting: list[WaitingStatus]
    traffic_log_written: int
    traffic_log_dropped: int
