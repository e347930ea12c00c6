"""What a run of the loop is asked for."""

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`minutes` bounds the whole loop; `requests` per pass, as many as fit into them where None.

    `calls`: their share of all requests; `pairs`: of passes that keep the engine full.
    """

    minutes: float
    load: float
    calls: float
    pairs: int
    max_tokens: int
    learn: int
    requests: int | None
    max_overtake_s: float | None
    seed: int
