"""The `headway` command: one sub-command per verb, each imported only when it is called."""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

_COMMANDS: Final = {
    "serve": ("proxy.serve", "put the proxy in front of one or more engines"),
    "run": ("proxy.launch.command", "an engine and the proxy in front of it, by one command"),
    "doctor": ("proxy.doctor.command", "what an engine honours, and the flags to add"),
    "train": ("training.train", "train a ranker from lengths or logged traffic"),
    "evaluate": ("training.evaluate", "score a ranker on lengths or logged traffic"),
    "retrain": ("training.retrain.command", "the loop once: log, train, replay, gate, publish"),
    "models": ("training.registry.command", "list, publish and roll back rankers"),
    "replay": ("training.replay.command", "what each order would have given recorded traffic"),
    "sidecar-patch": ("proxy.sidecar_patch", "the patch that adds the sidecar to a Deployment"),
    "demo": ("training.demo", "FCFS against Headway on this machine"),
}
_SERVING: Final = frozenset({"serve", "run"})
# What a shell says of a program that SIGINT ended.
_INTERRUPTED: Final = 130
_PACKAGES: Final = ("predictor", "proxy", "training")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit status."""
    if clash := _foreign_package():
        print(f"headway: {clash}", file=sys.stderr)
        return 2
    # Predicting multiplies small matrices on the event loop: helping threads would cost more than they bring.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not _SERVING.intersection(arguments[:1]):
        return _run(arguments)
    with importlib.import_module("proxy.signals").held_back():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="headway", description="Short answers first, and nobody starves.")
    parser.add_argument("--version", action="version", version=f"headway {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in _COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if arguments[:1] == [name]:
            importlib.import_module(module).add_arguments(sub)
    args = parser.parse_args(arguments)
    module, _ = _COMMANDS[args.command]
    try:
        return int(importlib.import_module(module).run(args))
    except KeyboardInterrupt:
        print("headway: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _version() -> str:
    try:
        return version("headway")
    except PackageNotFoundError:
        return "(not installed)"


def _foreign_package() -> str | None:
    """What is wrong where another distribution (proxy.py, for one) provides a package of our names."""
    home = Path(__file__).resolve().parent
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent.parent != home:
            return (
                f"the package '{name}' comes from {origin}, not from Headway: another distribution provides "
                "it too (proxy.py does). Install Headway in an environment of its own."
            )
    return None


if __name__ == "__main__":
    sys.exit(main())
