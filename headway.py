"""The `headway` command: one sub-command per verb, each imported only when it is called."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

_COMMANDS: Final = {
    "serve": ("proxy.serve", "put the proxy in front of one or more engines"),
    "train": ("training.train", "train a ranker from lengths or logged traffic"),
    "evaluate": ("training.evaluate", "score a ranker on lengths or logged traffic"),
    "demo": ("training.demo", "FCFS against Headway on this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="headway", description="Short answers first, and nobody starves.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in _COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if arguments[:1] == [name]:
            importlib.import_module(module).add_arguments(sub)
    args = parser.parse_args(arguments)
    module, _ = _COMMANDS[args.command]
    return int(importlib.import_module(module).run(args))


if __name__ == "__main__":
    sys.exit(main())
