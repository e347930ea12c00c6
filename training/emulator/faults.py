"""Faults of the emulated engine, which tests switch on and off while it runs."""

from enum import StrEnum

import msgspec


class Garbage(StrEnum):
    """Ways to answer with something that is no answer."""

    NONE = ""
    BYTES = "bytes"
    JSON = "json"
    SHORT_BODY = "short_body"
    LONG_BODY = "long_body"


class UsageLie(StrEnum):
    """Ways to be wrong about `usage`."""

    NONE = ""
    MISSING = "missing"
    WRONG = "wrong"


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong with the inference routes; the default is nothing.

    refuse: 503. hang: take the request, never answer. slowness: engine time is stretched by this factor.
    garbage: bytes that are not HTTP, a body that is not JSON, or one shorter or longer than its
    content-length. error_first: a stream whose only event is an error, status 200. error_after, cut_after,
    half_close_after: after so many tokens of a stream send an error event and `[DONE]`, drop the connection,
    or close the sending half; a unary answer stops in mid-body. usage: leave it out, or count wrong. times:
    heal by itself after so many requests were hit.
    """

    refuse: bool = False
    hang: bool = False
    slowness: float = 1.0
    garbage: Garbage = Garbage.NONE
    error_first: bool = False
    error_after: int | None = None
    cut_after: int | None = None
    half_close_after: int | None = None
    usage: UsageLie = UsageLie.NONE
    times: int | None = None

    def __post_init__(self) -> None:
        if self.slowness <= 0:
            raise ValueError("slowness must be above 0: it is a factor on engine time")


class FaultSwitch:
    """The faults in force, and how many more requests they hit."""

    def __init__(self) -> None:
        self._faults = Faults()
        self._left: int | None = None

    @property
    def current(self) -> Faults:
        """What the next request will meet."""
        return self._faults

    def set(self, faults: Faults) -> None:
        """Replace all faults."""
        self._faults = faults
        self._left = faults.times

    def for_next_request(self) -> Faults:
        """The faults of a request that has just arrived."""
        faults = self._faults
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self.set(Faults())
        return faults
