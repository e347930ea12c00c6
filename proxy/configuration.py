"""Settings from TOML file, `HEADWAY_*` environment and flags, each winning over those before it."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from proxy.service_links import is_service_link
from proxy.settings import DNS, ENV_PREFIX, Settings, SettingsError


def load_settings(flags: Mapping[str, Any], env: Mapping[str, str], config: Path | None = None) -> Settings:
    """Merge TOML file, environment and flags, the later winning, into checked settings.

    `flags` holds only what was given on the command line. Raises SettingsError naming the key.
    """
    merged: dict[str, Any] = {}
    merged.update(_from_toml(config) if config else {})
    merged.update(_from_env(env))
    merged.update(flags)
    if not merged.get("engine"):
        raise SettingsError(
            "no engine: give --engine http://HOST:PORT, or `engine` in the configuration file"
        )
    try:
        settings = msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"bad configuration: {error}") from error
    _check_urls(settings.engine)
    settings.redis_address()
    return settings


def _from_toml(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error
    return {name: _as_list(name, value) for name, value in table.items()}


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in env.items():
        if name.startswith(ENV_PREFIX) and name != f"{ENV_PREFIX}DATA":
            key = name.removeprefix(ENV_PREFIX).lower()
            if is_service_link(key, value):
                continue
            if key not in Settings.__struct_fields__:
                raise SettingsError(
                    f"the environment variable {name} is no setting; see `headway serve --help`"
                )
            found[key] = _as_list(key, value)
    return found


def _as_list(name: str, value: Any) -> Any:
    if name == "engine" and isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _check_urls(urls: tuple[str, ...]) -> None:
    for url in urls:
        _check_url(url)
    if len({url.rstrip("/") for url in urls}) < len(urls):
        raise SettingsError("--engine: the same URL is given twice")


def _check_url(url: str) -> None:
    if "@" in url or "?" in url or "#" in url:
        # Not quoted: this line goes to logs, and a password may be anywhere in what is no base URL.
        raise SettingsError("--engine: leave out user, password, query and fragment (http://HOST:PORT)")
    if url.startswith("dns+https://"):
        raise SettingsError(f"--engine {url}: an address has no certificate of its own; give dns+http://")
    try:
        parts = urlsplit(url.removeprefix(DNS))
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise SettingsError(f"--engine {url}: give a base URL such as http://127.0.0.1:8000")
    if "v1" in parts.path.split("/"):
        raise SettingsError(f"--engine {url}: leave out /v1; the routes are added to the base URL")
