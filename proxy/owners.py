"""Who created a stored response, and at which engine: nobody else may read, continue or cancel it."""

from collections import OrderedDict
from typing import Final

import msgspec

_MOST: Final = 65_536


class Owner(msgspec.Struct, frozen=True):
    """The key that created a response (empty without keys) and the engine that holds it."""

    key: str
    replica: str


class Owners:
    """The owners of the newest responses. Lost at a restart, and then nobody's."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._owners: OrderedDict[str, Owner] = OrderedDict()

    def remember(self, response_id: str, owner: Owner) -> None:
        """A response with this id was asked for."""
        self._owners[response_id] = owner
        self._owners.move_to_end(response_id)
        if len(self._owners) > self._most:
            self._owners.popitem(last=False)

    def find(self, response_id: str, key: str) -> Owner | None:
        """The owner, where `key` is theirs."""
        owner = self._owners.get(response_id)
        return owner if owner is not None and owner.key == key else None
