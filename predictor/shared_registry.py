"""The registry in Redis: artifacts, and the pointers to those that serve, for all proxies and trainers.

headway:artifact:<id>      a hash, file name -> bytes; written with the pointer that needs it, all or nothing
headway:decisions          a list of the journal's lines
headway:role:<role>        the id of the artifact that has the role; empty: the wheel's; missing: nobody has said
"""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from predictor.artifact import METADATA, metadata_id, read_metadata
from predictor.errors import ArtifactError
from predictor.redis_address import RedisAddress
from predictor.registry import (
    RegistryError,
    Role,
    artifact_directory,
    checked_id,
    models_directory,
)

_ANSWER_S: Final = 5.0
_MOST_BYTES: Final = 64 << 20
_MOST_FILES: Final = 64
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# A replaced artifact can be gone back to for so long.
_MOST_DECISIONS: Final = 1_000
_DECISIONS: Final = "headway:decisions"
_KEEP_S: Final = 30 * 24 * 3600


# A role, the artifact that gets it (None: the wheel's), and the one that is expected to have it.
Change = tuple[Role, str | None, str | None]


def role_key(role: Role) -> str:
    """Where a pointer is."""
    return f"headway:role:{role.value}"


def _artifact_key(artifact_id: str) -> str:
    return f"headway:artifact:{checked_id(artifact_id)}"


class SharedRegistry:
    """Reads and writes what all share; blocking, so off the event loop. Use as a context manager."""

    def __init__(self, address: RedisAddress) -> None:
        # No retries: with a Redis that hangs they take minutes, and a proxy that stops waits for this thread.
        self._client: Any = redis.Redis(
            **address.options(),
            retry=Retry(NoBackoff(), 0),
            socket_timeout=_ANSWER_S,
            socket_connect_timeout=_ANSWER_S,
        )

    def __enter__(self) -> "SharedRegistry":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def pointer(self, role: Role) -> str | None:
        """The id that has the role, None where it is the wheel's or nobody has said.

        Raises RedisError, or RegistryError where something else is written there.
        """
        return _named_by(role, self._client.get(role_key(role)))

    def has_said(self, role: Role) -> bool:
        """Whether anybody ever gave the role to anything. Raises RedisError."""
        return bool(self._client.exists(role_key(role)))

    def decisions(self) -> list[bytes]:
        """The journal of all trainers, one JSON line each, oldest first. Raises RedisError."""
        return list(self._client.lrange(_DECISIONS, 0, -1))

    def fetch(self, state: Path, artifact_id: str) -> None:
        """Bring an artifact into the state directory, whole and with the hashes it claims, or not at all.

        Raises RedisError, or PredictorError where it is not there, too large, or not what its id says.
        """
        directory = artifact_directory(state, artifact_id)
        if (directory / METADATA).exists():
            return
        files = self._files(artifact_id)
        try:
            models_directory(state).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=models_directory(state), prefix=".fetched-") as name:
                aside = Path(name) / artifact_id
                aside.mkdir()
                for file, data in files.items():
                    (aside / file).write_bytes(data)
                _check(aside, artifact_id, files)
                aside.rename(directory)
        except OSError as error:
            if not (directory / METADATA).exists():
                raise RegistryError(f"cannot write {directory}: {error.strerror or error}") from error

    def push(self, state: Path, changes: Sequence[Change], decisions: Sequence[bytes] = ()) -> None:
        """Give roles to artifacts of the state directory and add to the journal, for everybody, all or nothing.

        Nothing changes either where a role is not with whom it is expected to be. Raises PredictorError.
        """
        files = {one: _read(artifact_directory(state, one)) for _, one, _ in changes if one is not None}
        try:
            with self._client.pipeline() as pipe:
                pipe.watch(*map(role_key, Role))
                present = {role: _named_by(role, pipe.get(role_key(role))) for role in Role}
                for role, _, expected in changes:
                    _check_role(role, present[role], expected)
                # Also by a role that does not change: what it names serves on.
                named = {*(present | {role: given for role, given, _ in changes}).values()}
                pipe.multi()
                for one, content in files.items():
                    pipe.hset(_artifact_key(one), mapping=content)
                for role, given, expected in changes:
                    if expected is not None and expected not in named:
                        pipe.expire(_artifact_key(expected), _KEEP_S)
                    if given is not None:
                        pipe.persist(_artifact_key(given))
                    pipe.set(role_key(role), given or "")
                if decisions:
                    pipe.rpush(_DECISIONS, *decisions)
                    pipe.ltrim(_DECISIONS, -_MOST_DECISIONS, -1)
                pipe.execute()
        except redis.WatchError as error:
            raise RegistryError("another one was published meanwhile; run it again") from error
        except redis.RedisError as error:
            # redis-py quotes the whole command before the reason.
            reason = str(error).rpartition("caused error: ")[2]
            raise RegistryError(f"Redis did not take it, so nothing has changed: {reason}") from error

    def _files(self, artifact_id: str) -> dict[str, bytes]:
        key = _artifact_key(artifact_id)
        names = [name.decode("utf-8", "replace") for name in self._client.hkeys(key)]
        if not names:
            raise RegistryError(f"artifact {artifact_id} is not in Redis")
        odd = next((name for name in names if not _FILE.fullmatch(name)), None)
        if odd is not None or len(names) > _MOST_FILES:
            raise RegistryError(
                f"artifact {artifact_id} in Redis is none: it holds {odd or len(names)!r} files"
            )
        sizes = [self._client.hstrlen(key, name) for name in names]
        if sum(sizes) > _MOST_BYTES:
            raise RegistryError(
                f"artifact {artifact_id} in Redis has {sum(sizes)} bytes; {_MOST_BYTES} are allowed"
            )
        return {name: self._client.hget(key, name) or b"" for name in names}


def _named_by(role: Role, value: bytes | None) -> str | None:
    try:
        return checked_id(value.decode("ascii", "backslashreplace")) if value else None
    except RegistryError as error:
        raise RegistryError(f"{role_key(role)} in Redis: {error}; delete this key to begin anew") from error


def _check_role(role: Role, present: str | None, expected: str | None) -> None:
    if present != expected:
        raise RegistryError(f"the {role.value} changed to {present or 'the default'} meanwhile; run it again")


def _read(directory: Path) -> dict[str, bytes]:
    try:
        names = (METADATA, *read_metadata(directory).sha256)
        files = {name: (directory / name).read_bytes() for name in names}
    except OSError as error:
        raise ArtifactError(directory, f"cannot be read: {error.strerror or error}") from error
    if sum(map(len, files.values())) > _MOST_BYTES:
        raise ArtifactError(directory, f"is too large to share: {_MOST_BYTES} bytes are allowed")
    return files


def _check(directory: Path, artifact_id: str, files: dict[str, bytes]) -> None:
    """Raises PredictorError where the files are not those that the id and the metadata name."""
    if metadata_id(files.get(METADATA, b"")) != artifact_id:
        raise ArtifactError(directory, "came from Redis with other metadata than its id says")
    listed = read_metadata(directory).sha256
    if files.keys() != {METADATA, *listed}:
        raise ArtifactError(directory, "came from Redis with other files than its metadata lists")
    for name, digest in listed.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ArtifactError(directory, f"came from Redis with a damaged {name}")
