"""Where a trainer's registry is: what `headway serve` is told by file, environment and flags tells it too."""

import argparse
import os
from pathlib import Path

from proxy.configuration import load_settings
from proxy.settings import Settings

# The settings need an engine; a trainer asks none.
_NO_ENGINE = "http://nobody:1"


def add_place(parser: argparse.ArgumentParser) -> None:
    """The flags that name the state directory."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="serve's TOML file")
    parser.add_argument("--state", type=Path, metavar="DIR", help="serve's state directory")


def settings_of(args: argparse.Namespace) -> Settings:
    """Serve's settings as far as a trainer needs them; `--state` wins. Raises SettingsError, a ValueError."""
    flags = {"engine": [_NO_ENGINE]} | ({} if args.state is None else {"state": str(args.state)})
    return load_settings(flags, os.environ, args.config)
