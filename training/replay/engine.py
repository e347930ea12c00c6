"""The engine that traffic is replayed on: the one that was named, or the one that a traffic log shows."""

from collections import deque
from typing import Final

import msgspec

from training.profiles import PROFILES, EngineProfile, profile_named
from training.retrain.engine_seen import profile_seen
from training.sources import is_traffic, read_traffic

AUTO: Final = "auto"
ASSUMED: Final = "h100-8b"
CHOICES: Final = f"auto (what a traffic log shows, else {ASSUMED}), {', '.join(sorted(PROFILES))}"
# The latest requests of a log, by which its engine is judged.
_MOST: Final = 20_000


def profile_of(name: str, source: str) -> EngineProfile:
    """The profile of that name, or what AUTO makes of the source; one that nothing tells of is called assumed.

    Raises ValueError for an unknown name, DataError where the log cannot be read.
    """
    if name != AUTO:
        return profile_named(name)
    records = (one.record for one in read_traffic(source)) if is_traffic(source) else ()
    seen = profile_seen(deque(records, maxlen=_MOST))
    return msgspec.structs.replace(seen, name=f"{ASSUMED} (assumed)") if seen.name == ASSUMED else seen
