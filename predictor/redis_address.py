"""Where Redis is and how to get in: a URL, and a password that may come from a file. Neither is ever shown."""

from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, RedisError

SCHEMES: Final = ("redis://", "rediss://")
_EXAMPLE: Final = "redis://HOST:6379/0, or rediss:// for TLS"


def said(error: Exception) -> str:
    """What an operator reads of an error with Redis. No text of redis-py holds a password."""
    refused = isinstance(error, AuthenticationError)
    return f"it wants another password (HEADWAY_REDIS_PASSWORD): {error}" if refused else str(error)


class RedisAddress:
    """What a client needs to connect. Its text is host, port and database: it may go into any log."""

    def __init__(
        self,
        url: str,
        *,
        password: str | None = None,
        password_file: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        """`password` and `ca_file` may be in the URL too, as `?ssl_ca_certs=FILE`; a file beats both.

        Raises ValueError, whose message has no password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 6379
        except ValueError as error:
            raise ValueError(f"not a URL; percent-encode a password's own / @ : in {_EXAMPLE}") from error
        if f"{parts.scheme}://" not in SCHEMES or not parts.hostname or parts.fragment:
            raise ValueError(f"give {_EXAMPLE}")
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
        if query.keys() - {"ssl_ca_certs"}:
            raise ValueError(f"of what may follow a ?, only ssl_ca_certs is known; give {_EXAMPLE}")
        database = parts.path.strip("/") or "0"
        if not database.isdecimal():
            raise ValueError(f"the database is a number; give {_EXAMPLE}")
        self._host, self._port, self._database = parts.hostname, port, int(database)
        self._user = unquote(parts.username) if parts.username else None
        self._password = password or (unquote(parts.password) if parts.password else None)
        self._password_file = password_file
        self._tls = parts.scheme == "rediss"
        self._ca_file = ca_file or query.get("ssl_ca_certs", [None])[0]

    def __repr__(self) -> str:
        return f"{self._host}:{self._port}/{self._database}"

    def url(self) -> str:
        """All of it in one URL, password included: never to be shown. Raises RedisError without its file."""
        user, password = self._user or "", self._password or ""
        if self._password_file is not None:
            password = _FromFile(None, Path(self._password_file)).get_credentials()[0]
        secret = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
        host = f"[{self._host}]" if ":" in self._host else self._host
        query = f"?ssl_ca_certs={quote(self._ca_file, safe='')}" if self._ca_file else ""
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://{secret}{host}:{self._port}/{self._database}{query}"

    def options(self) -> dict[str, Any]:
        """Arguments of redis-py's clients, asynchronous or not."""
        found: dict[str, Any] = {"host": self._host, "port": self._port, "db": self._database}
        # RESP3 is asked for by name: what xread gives depends on it.
        found["protocol"] = 3
        if self._tls:
            found |= {"ssl": True, "ssl_ca_certs": self._ca_file}
        if self._password_file is not None:
            found["credential_provider"] = _FromFile(self._user, Path(self._password_file))
        else:
            found |= {"username": self._user, "password": self._password}
        return found


class _FromFile(CredentialProvider):
    """The file is read at every connection, so that a changed password needs no restart."""

    def __init__(self, user: str | None, path: Path) -> None:
        self._user = user
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Raises RedisError where the file cannot be read: others would leave the connection open, unasked."""
        try:
            password = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RedisError(f"its password file cannot be read: {error}") from error
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same: a small local file, read once per connection."""
        return self.get_credentials()
