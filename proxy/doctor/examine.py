"""All groups of findings, in order, against one engine."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from proxy.doctor.findings import Finding, Report, note, unproven, verdict_of
from proxy.doctor.identity import identify
from proxy.doctor.order import check_order
from proxy.doctor.prefix import check_prefix
from proxy.doctor.settings import check_settings
from proxy.doctor.signals import check_signals
from proxy.doctor.target import Target
from proxy.doctor.tuning import check_tuning
from proxy.doctor.usage import check_usage
from proxy.engines.detect import detect
from proxy.engines.facts import EngineFacts, Kind
from proxy.engines.registry import adapter_for
from proxy.upstream import Upstream

Group = Callable[[Target], Awaitable[list[Finding]]]
_GROUPS: Final[tuple[Group, ...]] = (check_usage, check_prefix, check_order, check_signals, check_tuning)
# They bring notes alone, which nobody waits for at a slow engine.
_SPARED: Final = (check_signals, check_tuning)
_BUDGET_S: Final = 10.0


async def examine(
    upstream: Upstream,
    url: str,
    api_key: str | None,
    *,
    kind: Kind | None = None,
    model: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Examine one engine; never raises for anything that an engine does."""
    began_s = time.monotonic()
    progress("asking what it is")
    facts = await detect(upstream, url, api_key)
    findings = identify(facts)
    target = _target(upstream, url, api_key, facts, kind=kind, model=model, force=force)
    if target is None:
        findings.append(unproven("everything else", "the engine must answer, take the key and list a model"))
    else:
        findings += await _ask(target, progress)
    verdict, exit_code = verdict_of(findings)
    return Report(
        engine=url,
        kind=kind or facts.kind,
        version=facts.version,
        model=target.model if target else None,
        seconds=round(time.monotonic() - began_s, 1),
        verdict=verdict,
        exit_code=exit_code,
        findings=findings,
    )


async def _ask(target: Target, progress: Callable[[str], None]) -> list[Finding]:
    findings = check_settings(target.facts)
    began_s = time.monotonic()
    for group in _GROUPS:
        name = group.__name__.removeprefix("check_")
        progress(name)
        if group in _SPARED and not target.force and time.monotonic() - began_s > _BUDGET_S:
            findings.append(note(name, f"left out: the rest took more than {_BUDGET_S:g} s", "--force"))
            continue
        found = await group(target)
        known = {finding.name for finding in findings}
        # What the engine says of its settings is the same fault as what is measured: one line for both.
        findings += [finding for finding in found if finding.name not in known]
        if any(finding.name == "answers" for finding in found):
            findings.append(unproven("everything else", "no chat request is answered"))
            break
    return findings


def _target(
    upstream: Upstream,
    url: str,
    api_key: str | None,
    facts: EngineFacts,
    *,
    kind: Kind | None,
    model: str | None,
    force: bool,
) -> Target | None:
    chosen = model or (facts.models[0].id if facts.models else None)
    if not facts.answered or facts.key_refused or chosen is None:
        return None
    adapter = adapter_for(kind or facts.kind, facts, default_tier=0)
    return Target(upstream, url, api_key, facts, adapter, chosen, force)
