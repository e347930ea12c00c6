"""The artifacts that all proxies are to serve, copied from Redis to where this one looks for its own."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from predictor.errors import ArtifactError, PredictorError
from predictor.redis_address import RedisAddress
from predictor.registry import Role, checked_id, write_pointer
from predictor.shared_registry import SharedRegistry, role_key
from proxy.shared.link import Link

_LOG: Final = logging.getLogger("headway.redis")
_PART: Final = "artifacts"
_POLL_S: Final = 2.0
_FIRST_LOOK_S: Final = 3.0
# Looks between tries of what was refused: one that is damaged for good may be large, and is fetched anew each time.
_MOST_DOUBLINGS: Final = 5


class _Refused(NamedTuple):
    """A pointer that was not taken, why, how often, and how many looks pass before the next try."""

    value: bytes
    reason: str
    times: int
    rests: int


class SharedArtifacts:
    """Follows the pointers in Redis. Without Redis the last copy serves on, after a restart too."""

    def __init__(self, link: Link, address: RedisAddress, state: Path, changed: Callable[[], None]) -> None:
        """`changed` is called after a pointer under the state directory was moved."""
        self._link = link
        self._address = address
        self._state = state
        self._changed = changed
        self._seen: dict[Role, bytes] = {}
        self._refused: dict[Role, _Refused] = {}

    async def start(self) -> None:
        """Look once, so that a new proxy begins with what the others serve; not for long."""
        try:
            async with asyncio.timeout(_FIRST_LOOK_S):
                await self._link.attempt(_PART, self._look)
        except TimeoutError:
            _LOG.warning("Redis did not say in time which artifact serves; it is asked again")

    async def run(self) -> None:
        """Look every two seconds, until cancelled."""
        await self._link.keep(_PART, self._look_later)

    async def _look_later(self) -> bool:
        await asyncio.sleep(_POLL_S)
        return await self._look()

    async def _look(self) -> bool:
        for role in Role:
            value = await self._link.client.get(role_key(role))
            if value is None or value == self._seen.get(role):
                self._refused.pop(role, None)
            elif self._rests(role, value):
                continue
            elif (refusal := await asyncio.to_thread(self._follow, role, value)) is not None:
                self._note(role, value, refusal)
            else:
                self._refused.pop(role, None)
                self._seen[role] = value
                self._changed()
        return True

    def _follow(self, role: Role, value: bytes) -> PredictorError | None:
        """In a thread: bring the artifact here and point at it; gives why it was not taken, which changes nothing."""
        try:
            artifact_id = checked_id(value.decode("ascii", "backslashreplace")) if value else None
            if artifact_id is not None:
                with SharedRegistry(self._address) as registry:
                    registry.fetch(self._state, artifact_id)
            write_pointer(self._state, role, artifact_id)
        except PredictorError as error:
            return error
        return None

    def _rests(self, role: Role, value: bytes) -> bool:
        """Whether the same pointer was refused too lately to be tried again."""
        refused = self._refused.get(role)
        if refused is None or refused.value != value or not refused.rests:
            return False
        self._refused[role] = refused._replace(rests=refused.rests - 1)
        return True

    def _note(self, role: Role, value: bytes, refusal: PredictorError) -> None:
        """It is tried again, as a disk may have room by then: at once, then after twice as long each time. Said once
        per reason."""
        # An artifact's error also names the directory of this one try.
        reason = refusal.reason if isinstance(refusal, ArtifactError) else str(refusal)
        before = self._refused.get(role)
        times = before.times + 1 if before and before.value == value else 0
        self._refused[role] = _Refused(value, reason, times, (1 << min(times, _MOST_DOUBLINGS)) - 1)
        if before is None or (before.value, before.reason) != (value, reason):
            _LOG.error(
                "the %s in Redis is not taken, and what serves goes on serving: %s; it is tried again",
                role.value,
                refusal,
            )
