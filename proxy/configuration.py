"""Settings from TOML file, `HEADWAY_*` environment and flags, each winning over those before it."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from proxy.class_settings import ClassSettings
from proxy.describe import choices
from proxy.identity import KeySettings
from proxy.service_links import is_service_link
from proxy.settings import DNS, ENV_PREFIX, Settings, SettingsError

_TABLES: Final[dict[str, type[msgspec.Struct]]] = {"classes": ClassSettings, "keys": KeySettings}
# Names where measurements' data lies, in the shell of whoever works on Headway.
_NO_SETTING: Final = f"{ENV_PREFIX}DATA"
_PLACE: Final = re.compile(r"at `\$\.(?P<key>\w+)(?:\[.*?\])?(?:\.(?P<inner>\w+))?")
_UNKNOWN: Final = re.compile(r"unknown field `(?P<key>.+)`$")


def load_settings(flags: Mapping[str, Any], env: Mapping[str, str], config: Path | None = None) -> Settings:
    """Merge TOML file, environment and flags, the later winning, into checked settings.

    `flags` holds only what was given on the command line. Raises SettingsError naming the key and its source.
    """
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for values, source in (
        (_from_toml(config) if config else {}, f"{config}"),
        (_from_env(env), "the environment"),
        (flags, "the flags"),
    ):
        merged.update(values)
        sources.update(dict.fromkeys(values, source))
    if not merged.get("engine"):
        raise SettingsError(
            "no engine: give --engine http://HOST:PORT, or `engine` in the configuration file"
        )
    try:
        settings = msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"bad configuration{_explained(str(error), sources)}") from error
    _check_urls(settings.engine)
    _check_order(settings)
    settings.redis_address()
    return settings


def _explained(error: str, sources: Mapping[str, str]) -> str:
    """What msgspec says, with what it leaves out: where the key comes from, and between what there is to choose."""
    place = _PLACE.search(error) or _UNKNOWN.search(error)
    if place is None:
        return f": {error}"
    key, inner = place["key"], place.groupdict().get("inner")
    of = choices(_TABLES[key], inner) if inner else choices(Settings, key)
    chosen = f": choose one of {', '.join(of)}" if of else ""
    return f" in {sources[key]}: {error}{chosen}"


def _from_toml(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error
    return {name: _as_list(name, value) for name, value in table.items()}


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in env.items():
        if name.startswith(ENV_PREFIX) and name != _NO_SETTING:
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


def _check_order(settings: Settings) -> None:
    """What an engine was sent cannot be keyed anew, and `sjf`'s keys compare with no other policy's."""
    if settings.mode == "engine" and "sjf" in settings.policies:
        raise SettingsError("bad configuration: sjf goes with mode hold or hybrid, not with mode engine")


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
