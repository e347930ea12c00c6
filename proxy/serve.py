"""`headway serve`: read the settings, run the proxy until a signal, drain, stop."""

import argparse
import gc
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvloop

from proxy.app import Headway
from proxy.configuration import load_settings
from proxy.describe import describe
from proxy.order import endless_waits
from proxy.settings import Settings, SettingsError
from proxy.signals import hear, stop_signal, unless

_YOUNG_OBJECTS: Final = 20_000
_LOG: Final = logging.getLogger("headway")
# Taken over by SIGHUP (Headway.reload).
_RELOADED: Final = ("policy", "max_overtake", "default_class", "classes", "keys", "trust_headers")
_ONLY_IN_FILE: Final = ("classes", "keys")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag per setting."""
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """The same, less the settings that another command makes itself."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the same keys")
    for name, default, text in describe(Settings):
        if name in (*_ONLY_IN_FILE, *without):
            continue
        shown = f"{text} [{default.strip('`')}]" if default else text
        action = "append" if name == "engine" else "store"
        parser.add_argument(
            "--" + name.replace("_", "-"), action=action, metavar="VALUE", help=shown.replace("%", "%%")
        )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    try:
        settings = _read_settings(args)
    except SettingsError as error:
        print(f"headway: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    try:
        uvloop.run(_serve(settings, args))
    except SettingsError as error:
        print(f"headway: {error}", file=sys.stderr)
        return 2
    except (OSError, sqlite3.Error) as error:
        print(f"headway: cannot start: {error}", file=sys.stderr)
        return 1
    return 0


def _read_settings(args: argparse.Namespace) -> Settings:
    return load_settings(given(args), os.environ, args.config)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as flags."""
    named = {field: getattr(args, field, None) for field in Settings.__struct_fields__}
    return {field: value for field, value in named.items() if value is not None}


async def _serve(settings: Settings, args: argparse.Namespace) -> None:
    stop = stop_signal()
    hangup = Hangup(partial(_read_settings, args))
    warn_of_endless_waits(settings)
    headway = Headway(settings)
    if await unless(stop, headway.start()):
        hangup.reloads(headway)
        calm_collector()
        _LOG.info("serving on %s in front of %s", headway.url, ", ".join(settings.engine))
        await stop.wait()
    await headway.drain()
    await headway.stop()


def warn_of_endless_waits(settings: Settings) -> None:
    """One line of the log for each; what the operator asked for is done."""
    for line in endless_waits(settings):
        _LOG.warning("%s", line)


def calm_collector() -> None:
    """Leave what was made at the start out of every later collection, and collect less often.

    A request makes hundreds of objects that die by reference counting. The default threshold of 700 has them
    searched for cycles every few requests, and a full search goes through all that was ever loaded.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


class Hangup:
    """SIGHUP: read the configuration again; what is wrong with it is said, and the old one stays.

    It is heard from now on; one that comes while the proxy still starts is obeyed when that is done.
    """

    def __init__(self, read: Callable[[], Settings]) -> None:
        self._read = read
        self._headway: Headway | None = None
        self._came_early = False
        hear(signal.SIGHUP, self._heard)

    def reloads(self, headway: Headway) -> None:
        """The proxy has started."""
        self._headway = headway
        if self._came_early:
            self._heard()

    def _heard(self) -> None:
        if self._headway is None:
            self._came_early = True
            return
        try:
            settings = self._read()
            self._headway.reload(settings)
        except SettingsError as error:
            _LOG.error("not reloaded: %s", error)
            return
        if names := needing_restart(self._headway.settings, settings):
            _LOG.warning("until a restart these stay as they were: %s", ", ".join(names))


def needing_restart(running: Settings, wanted: Settings) -> list[str]:
    """The settings that differ, of those that are read only at the start."""
    fixed = [name for name in Settings.__struct_fields__ if name not in _RELOADED]
    return [name for name in fixed if getattr(running, name) != getattr(wanted, name)]
