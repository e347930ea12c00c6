"""Where registry and log are: this machine's state directory, or that in step with what proxies share in Redis."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import redis

from predictor.errors import PredictorError
from predictor.redis_address import RedisAddress, said
from predictor.registry import RegistryError, Role, read_pointer, write_pointer
from predictor.shared_registry import SharedRegistry
from training.registry.journal import BusyError, champions_before, journal_lines, read_decisions, write_lines
from training.registry.place import settings_of


class Place(NamedTuple):
    """`state`: the directory to work in; `source`: the traffic log; `redis`: where both are shared, if they are."""

    state: Path
    source: str
    redis: RedisAddress | None


def place_of(args: argparse.Namespace) -> Place:
    """As serve is told. Raises PredictorError or ValueError."""
    settings = settings_of(args)
    state, address = Path(settings.state), settings.redis_address()
    if address is None:
        return Place(state, f"sqlite:///{state / 'traffic.db'}", None)
    try:
        return Place(state, address.url(), address)
    except redis.RedisError as error:
        raise RegistryError(f"Redis at {address!r}: {said(error)}") from error


@contextmanager
def shared(place: Place, *wanted: str) -> Iterator[None]:
    """Before: what others have published and decided is in the state directory, `wanted` artifacts too.

    After: what was published or decided within is everybody's; where somebody else was quicker or anything fails,
    nobody's. Raises PredictorError or OSError.
    """
    if place.redis is None:
        yield
        return
    with SharedRegistry(place.redis) as registry:
        try:
            theirs = {role: registry.pointer(role) for role in Role}
            _pull(registry, place.state, theirs, wanted)
        except redis.RedisError as error:
            raise RegistryError(f"Redis at {place.redis!r}: {said(error)}") from error
        before = {role: read_pointer(place.state, role) for role in Role}
        known = journal_lines(place.state)
        try:
            yield
            now = {role: read_pointer(place.state, role) for role in Role}
            changed = [(role, now[role], theirs[role]) for role in Role if now[role] != before[role]]
            registry.push(place.state, changed, journal_lines(place.state)[len(known) :])
        except BusyError:
            # Whatever has changed here is the other one's.
            raise
        except BaseException:
            _restore(place.state, before, known)
            raise


def _restore(state: Path, pointers: dict[Role, str | None], lines: list[bytes]) -> None:
    """Only what differs: on a full disk nothing can be written that need not be."""
    for role, artifact_id in pointers.items():
        if read_pointer(state, role) != artifact_id:
            write_pointer(state, role, artifact_id)
    if journal_lines(state) != lines:
        write_lines(state, lines)


def _pull(
    registry: SharedRegistry, state: Path, theirs: dict[Role, str | None], wanted: tuple[str, ...]
) -> None:
    lines = registry.decisions()
    if lines:
        write_lines(state, lines)
    for role, artifact_id in theirs.items():
        if artifact_id is not None:
            registry.fetch(state, artifact_id)
        if artifact_id is not None or registry.has_said(role):
            write_pointer(state, role, artifact_id)
    earlier = champions_before(read_decisions(state), theirs[Role.CHAMPION])[-1:]
    for artifact_id in (*wanted, *earlier):
        # One that nobody has any more is missed where it is needed.
        with suppress(PredictorError):
            if artifact_id is not None:
                registry.fetch(state, artifact_id)
