"""What the operator can say of a class of requests."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

_HOURS: Final = r"^[0-2]\d:[0-5]\d-[0-2]\d:[0-5]\d$"


class ClassSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[classes]]` entry."""

    name: Annotated[str, Meta(min_length=1, max_length=64, description="What clients and keys call it.")]
    tier: Annotated[int, Meta(ge=0, description="Lower tiers go strictly first.")] = 0
    offset_s: Annotated[
        float, Meta(ge=0, description="Within a tier: counts as having arrived so much later.")
    ] = 0.0
    policy: Annotated[
        Literal["fcfs", "quantile", "work", "sjf"] | None,
        Meta(description="Its order; absent: the general one."),
    ] = None
    max_overtake: Annotated[
        Annotated[float, Meta(ge=0, le=86_400)] | None, Meta(description="Its D; absent: the general one.")
    ] = None
    ttl_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Seconds within which a request must begin, unless it says so itself."),
    ] = None
    min_share: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Share of dispatches its tier gets whatever waits above; absent: 5% below tier 0."),
    ] = None
    window_share: Annotated[
        float, Meta(gt=0, le=1, description="Most of an engine's window that its tier may hold.")
    ] = 1.0
    hours: Annotated[
        tuple[Annotated[str, Meta(pattern=_HOURS)], ...],
        Meta(
            description='Spans of UTC time such as "22:00-06:00" outside of which it waits; absent: always.'
        ),
    ] = ()
