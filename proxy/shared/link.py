"""The connection to Redis: one pool for all that is shared, and one voice that says what works and what does not."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, InvalidResponse, RedisError

from predictor.redis_address import RedisAddress

_LOG: Final = logging.getLogger("headway.redis")
_IN_SCRIPT: Final = re.compile(r"^Error running script.*: -[A-Z]+ | script: [0-9a-f]{40}.*$")
_ANSWER_S: Final = 5.0
_FIRST_BACKOFF_S: Final = 0.25
_LONGEST_BACKOFF_S: Final = 5.0
_CLOSE_S: Final = 2.0
_FAILURES: Final = (RedisError, OSError, TimeoutError)
# One turn of a part's work; true if Redis has answered, false where there was nothing to ask.
Work = Callable[[], Awaitable[bool]]


class Link:
    """Hands out the client and keeps the parts that use it going. `faults`: what does not work now, by part."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        # No retries of the client's own: whoever calls knows whether a repeat does harm, and how long to wait.
        retry = Retry(NoBackoff(), 0)
        self.client: Any = redis.asyncio.Redis(
            **address.options(),
            retry=retry,
            socket_timeout=_ANSWER_S,
            socket_connect_timeout=_ANSWER_S,
        )
        self.faults: dict[str, str] = {}
        self._worked = False

    @property
    def works(self) -> bool:
        """Whether all that is shared is shared at present."""
        return self._worked and not self.faults

    async def keep(self, part: str, work: Work) -> None:
        """Call `work` again and again until cancelled; after a failure wait, each time longer."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            if await self.turn(part, work):
                backoff_s = _FIRST_BACKOFF_S
            else:
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    async def turn(self, part: str, work: Work) -> bool:
        """`attempt`, for loops that a cancel ends: on Python 3.11 `asyncio.wait_for`, which redis-py uses, eats one
        that comes together with its result (python/cpython#86296), and a loop that goes on is never stopped."""
        answered = await self.attempt(part, work)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        return answered

    async def attempt(self, part: str, work: Work) -> bool:
        """Call `work` once; False where Redis failed it, which is said once per reason."""
        try:
            answered = await work()
        except _FAILURES as error:
            self._failed(part, _reason(error))
            return False
        except Exception as error:  # noqa: BLE001 - the edge of the task: nothing that Redis holds may end it
            if part not in self.faults:
                _LOG.exception("sharing %s failed", part)
            self._failed(part, f"{part}: {type(error).__name__}")
            return False
        if answered:
            self._succeeded(part)
        return True

    async def close(self) -> None:
        """Close every connection; never raises, and takes no longer where Redis does not answer (TLS waits for it)."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.client.aclose()
        except Exception as error:  # noqa: BLE001 - the edge of the task: a proxy that stops has more to end
            reason = _reason(error)
            _LOG.warning(
                "the connections to Redis at %r were not closed in good order: %s", self._address, reason
            )

    def _failed(self, part: str, reason: str) -> None:
        known = reason in self.faults.values()
        self.faults[part] = reason
        if not known:
            _LOG.warning("Redis at %r: %s; this proxy goes on alone and tries again", self._address, reason)

    def _succeeded(self, part: str) -> None:
        failed = self.faults.pop(part, None)
        if not self.faults and (failed or not self._worked):
            _LOG.info("Redis at %r works%s", self._address, " again" if self._worked else "")
            self._worked = True


def _reason(error: Exception) -> str:
    """One line for the operator. No text of redis-py holds a password."""
    if isinstance(error, AuthenticationError):
        return f"it refuses the password: {error}"
    if isinstance(error, InvalidResponse):
        return "what answers there is no Redis"
    first = (str(error).splitlines() or [""])[0]
    # What a script met: its place in the script is no news to an operator.
    first = _IN_SCRIPT.sub("", first)
    return first or type(error).__name__
