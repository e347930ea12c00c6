"""The traffic record: one row per request, and the only contract between serving and training."""

from enum import StrEnum
from typing import Final

import msgspec

from predictor.request import RequestBody

# 2: `grams` and `body`, the text modes.
RECORD_VERSION: Final = 2
# What the engines' dialects call an answer that was cut at its limit.
CUT: Final = frozenset({"length", "max_tokens", "max_output_tokens", "incomplete"})


class Outcome(StrEnum):
    """How a request ended; each request has exactly one."""

    COMPLETED = "completed"
    ENGINE_ERROR = "engine_error"
    ENGINE_LOST = "engine_lost"
    CLIENT_GONE = "client_gone"
    REFUSED_INVALID = "refused_invalid"
    REFUSED_FULL = "refused_full"
    REFUSED_DRAINING = "refused_draining"
    EXPIRED = "expired"
    INTERNAL_ERROR = "internal_error"


class TrafficRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was known and predicted of a request, and what came of it. No prompt text unless it was asked for.

    Times: `arrival_us` in microseconds since the Unix epoch, the rest in seconds from arrival. The field
    `output_tokens` counts all completion tokens, reasoning included; None where the engine did not say. The
    `features` are little-endian float32 values named by the feature schema whose id is `schema`.

    Of answers that completed there are, in text mode `hashed`, the packed n-grams
    (`predictor.features.grams`), and in text mode `full` what Headway reads of the body, prompt included, less
    very long ones.
    """

    request_id: str
    arrival_us: int
    api: str
    outcome: Outcome
    version: int = 1  # what an absent one means: defaults are not written
    status: int = 0
    model: str | None = None
    class_name: str = "standard"
    tenant: str = "default"
    replica: str | None = None
    stream: bool = False
    policy: str = ""
    mode: str = ""
    artifact: str = ""
    quantile: float | None = None
    predicted_tokens: float | None = None
    key_us: int | None = None
    max_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str | None = None
    queue_s: float | None = None
    ttft_s: float | None = None
    e2e_s: float | None = None
    schema: str | None = None
    features: bytes | None = None
    grams: bytes | None = None
    body: RequestBody | None = None
