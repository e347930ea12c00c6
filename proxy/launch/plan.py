"""How an engine is started so that it honours our order and reports what we measure. The user's flags win."""

from collections.abc import Sequence
from typing import Final

import msgspec

from proxy.engines.flags import ORDER, REPORTS, EngineName, Flags

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class _Engine(msgspec.Struct, frozen=True):
    """`order` and `reports`: flags with their values, that make it follow our order and tell what it does.

    `order_needs`: a flag that, set to anything but one of these, makes the order's flags impossible.
    `defeats`: flags and values of the user's that take from us what the text says.
    """

    module: str
    package: str
    model_flag: str
    ready_path: str
    order: Flags
    reports: Flags
    order_needs: tuple[str, tuple[str, ...]] | None
    defeats: tuple[tuple[str, str | None, str], ...]


_ENGINES: Final[dict[EngineName, _Engine]] = {
    "vllm": _Engine(
        # The `vllm` script of the CPU package dies of its own name.
        module="vllm.entrypoints.openai.api_server",
        package="vllm",
        model_flag="--model",
        ready_path="/health",
        order=ORDER["vllm"],
        reports=REPORTS["vllm"],
        order_needs=None,
        defeats=(
            ("--scheduling-policy", "fcfs", "the engine ignores priorities: only the proxy orders"),
            ("--no-enable-prefix-caching", None, "no prompt is reused, so self-prediction costs a prefill"),
            ("--no-enable-prompt-tokens-details", None, "cached tokens are not told"),
        ),
    ),
    "sglang": _Engine(
        module="sglang.launch_server",
        package="sglang",
        model_flag="--model-path",
        ready_path="/ready",
        order=ORDER["sglang"],
        reports=REPORTS["sglang"],
        order_needs=("--schedule-policy", ("fcfs", "lof")),
        defeats=(
            ("--disable-radix-cache", None, "no prompt is reused, so self-prediction costs a prefill"),
            ("--abort-on-priority-when-disabled", None, "a priority is an error where priorities are off"),
        ),
    ),
}


class Plan(msgspec.Struct, frozen=True):
    """How to start an engine and where it will be. `warnings`: what the user's flags take from us."""

    name: EngineName
    package: str
    command: tuple[str, ...]
    url: str
    ready_path: str
    warnings: tuple[str, ...]


def make_plan(name: EngineName, python: str, given: Sequence[str], free_port: int) -> Plan:
    """`given`: the user's flags; ours are added before them, where the user has said nothing of the kind.

    A model may come first without a flag, as `vllm serve` takes it.
    """
    engine = _ENGINES[name]
    if given and not given[0].startswith("-"):
        given = (engine.model_flag, *given)
    said = _flags_in(given)
    warnings = [
        f"{_shown(flag, said)}: {text}" for flag, value, text in engine.defeats if _is(flag, value, said)
    ]
    order = engine.order
    if engine.order_needs is not None:
        flag, possible = engine.order_needs
        if said.get(flag, possible[0]) not in possible:
            order = ()
            warnings.append(
                f"{_shown(flag, said)}: the engine cannot order by priority, only the proxy orders"
            )
    host = said.get("--host") or LOOPBACK[0]
    if host not in LOOPBACK:
        warnings.append(f"--host {host}: whoever can reach the engine goes around the queue")
    if "--api-key" in said:
        warnings.append("--api-key: let the proxy know it too (--engine-api-key-file)")
    port = said.get("--port") or str(free_port)
    place = (("--host", host), ("--port", port))
    ours = [part for flag in (*order, *engine.reports, *place) if not _says(flag[0], said) for part in flag]
    reachable = host if host in LOOPBACK else LOOPBACK[0]
    return Plan(
        name=name,
        package=engine.package,
        command=(python, "-m", engine.module, *ours, *given),
        url=f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}",
        ready_path=engine.ready_path,
        warnings=tuple(warnings),
    )


def _flags_in(given: Sequence[str]) -> dict[str, str]:
    """The flags by their canonical names, with their values (empty where they have none); the last one counts."""
    said: dict[str, str] = {}
    for place, word in enumerate(given):
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            follows = given[place + 1] if place + 1 < len(given) else ""
            said[flag.replace("_", "-")] = value if equals else "" if follows.startswith("--") else follows
    return said


def _says(flag: str, said: dict[str, str]) -> bool:
    """Whether the user has set a flag, or its opposite."""
    return flag in said or f"--no-{flag.removeprefix('--')}" in said


def _is(flag: str, value: str | None, said: dict[str, str]) -> bool:
    return flag in said and value in (None, said[flag])


def _shown(flag: str, said: dict[str, str]) -> str:
    return f"{flag} {said[flag]}".strip()
