"""`headway run vllm|sglang [OPTIONS] [-- ENGINE ARGS]`: one command for an engine and the proxy before it."""

import argparse
import asyncio
import importlib.util
import logging
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import uvloop

from proxy.app import Headway
from proxy.configuration import load_settings
from proxy.launch.plan import LOOPBACK, Plan, make_plan
from proxy.launch.supervisor import EngineEndedError, Supervisor
from proxy.serve import Hangup, add_settings, calm_collector, given, warn_of_endless_waits
from proxy.settings import Settings, SettingsError
from proxy.signals import stop_signal, unless

_LOG: Final = logging.getLogger("headway.run")
_SEPARATOR: Final = "--"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All is taken as it stands: argparse would lose the `--` between our options and the engine's."""
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="vllm|sglang [OPTIONS] [-- MODEL ENGINE ARGS]",
        help="`headway run vllm --help` shows the options",
    )


def run(args: argparse.Namespace) -> int:
    """Run both until a signal; returns the exit status: 1 where the engine ended for good, 2 for bad options."""
    words = args.words
    place = words.index(_SEPARATOR) if _SEPARATOR in words else len(words)
    options = _options().parse_args(words[:place])
    try:
        settings, plan = _prepare(options, words[place + 1 :])
        logging.basicConfig(
            level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
        )
        for warning in plan.warnings:
            _LOG.warning("%s", warning)
        warn_of_endless_waits(settings)
        uvloop.run(_run(settings, plan, options))
    except SettingsError as error:
        sys.stderr.write(f"headway: {error}\n")
        return 2
    except (EngineEndedError, OSError, sqlite3.Error) as error:
        sys.stderr.write(f"headway: {error}\n")
        return 1
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headway run",
        usage="%(prog)s vllm|sglang [OPTIONS] [-- MODEL ENGINE ARGS]",
        description="Start the engine with the flags that Headway needs, and the proxy in front of it.",
    )
    add = parser.add_argument
    add("kind", choices=["vllm", "sglang"], help="the engine, installed beside Headway")
    add(
        "--restart",
        choices=["never", "on-failure", "always"],
        default="on-failure",
        help="when the engine ends",
    )
    add(
        "--ready-timeout",
        type=float,
        default=1800.0,
        metavar="S",
        help="seconds until it must be ready [1800]",
    )
    add(
        "--engine-grace",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds between its SIGTERM and SIGKILL [30]",
    )
    add("--engine-log", type=Path, metavar="FILE", help="the engine's own log [STATE/ENGINE.log]")
    add("--engine-python", metavar="PATH", help="the interpreter of another environment that has the engine")
    add_settings(parser, without=("engine", "engine_kind"))
    return parser


def _prepare(options: argparse.Namespace, engine_args: list[str]) -> tuple[Settings, Plan]:
    python = options.engine_python or sys.executable
    plan = make_plan(options.kind, python, engine_args, _free_port())
    _check_installed(plan, python)
    return _read_settings(options, plan), plan


def _read_settings(options: argparse.Namespace, plan: Plan) -> Settings:
    flags = given(options) | {"engine": (plan.url,), "engine_kind": options.kind}
    return load_settings(flags, os.environ, options.config)


def _check_installed(plan: Plan, python: str) -> None:
    """Raises SettingsError where the interpreter does not know the engine."""
    if python == sys.executable:
        found = importlib.util.find_spec(plan.package) is not None
    else:
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({plan.package!r}) is None)"
        try:
            found = subprocess.run([python, "-c", code], check=False, capture_output=True).returncode == 0
        except OSError as error:
            raise SettingsError(f"--engine-python {python}: {error.strerror}") from error
    if not found:
        raise SettingsError(
            f"{python} has no {plan.package}: pip install 'headway[{plan.name}]', or name an interpreter that "
            "has it with --engine-python"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK[0], 0))
        return int(probe.getsockname()[1])


async def _run(settings: Settings, plan: Plan, options: argparse.Namespace) -> None:
    log = options.engine_log or Path(settings.state) / f"{plan.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor(
        plan,
        log,
        restart=options.restart,
        ready_timeout_s=options.ready_timeout,
        grace_s=options.engine_grace,
    )
    try:
        await _serve(settings, partial(_read_settings, options, plan), supervisor, stop_signal())
    finally:
        await supervisor.stop()


async def _serve(
    settings: Settings, read: Callable[[], Settings], supervisor: Supervisor, stop: asyncio.Event
) -> None:
    """Serve until a signal or until the engine is given up; drain first, and only then let the engine go.

    The proxy comes first: a port that is taken is known at once, and not after a model was loaded.
    """
    hangup = Hangup(read)
    headway = Headway(settings)
    if started := await unless(stop, headway.start()):
        hangup.reloads(headway)
    try:
        if started and await unless(stop, supervisor.start()):
            await headway.look()
            calm_collector()
            _LOG.info("serving on %s", headway.url)
            await unless(stop, supervisor.watch())
    finally:
        await headway.drain()
        await headway.stop()
