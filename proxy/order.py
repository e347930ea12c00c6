"""From settings and an artifact's recommendation to the scheduler: classes, tenants, limits, policies."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from predictor.order import Order
from proxy.class_settings import ClassSettings
from proxy.identity import Identities, KeySettings
from proxy.scheduling.backlog import QueueLimits
from proxy.scheduling.classes import ServiceClass, check_classes, default_classes
from proxy.scheduling.fair import TenantLimits
from proxy.scheduling.policy import MICROSECONDS, Fcfs, Policy, make_policy
from proxy.scheduling.scheduler import Scheduler
from proxy.settings import Settings, SettingsError

# Without a word of the operator a lower tier still gets this share of the dispatches.
_MIN_SHARE = 0.05


class Ordering(msgspec.Struct, frozen=True):
    """Policy, D in seconds and lane share in force; `chosen_by` tells for each of them: settings, artifact or
    default."""

    policy: str
    max_overtake_s: float
    lane_share: float
    chosen_by: dict[str, str]


def ordering(settings: Settings, recommended: Order | None) -> Ordering:
    """What the operator has set; what he has not, as replay recommends for the artifact's traffic, else the defaults.

    A D of the operator's is not mixed with a recommended policy that makes nothing of it: with `fcfs`
    recommended and a D set, the order is `quantile`.
    """
    asked: dict[str, Any] = {
        "policy": None if settings.policy == "auto" else settings.policy,
        "max_overtake_s": settings.max_overtake,
        "lane_share": settings.lane_share,
    }
    found: dict[str, Any] = {}
    chosen_by: dict[str, str] = {}
    for name, own in asked.items():
        if own is not None:
            found[name], chosen_by[name] = own, "settings"
        elif recommended is not None and not (name == "policy" and _contradicts(recommended, settings)):
            found[name], chosen_by[name] = getattr(recommended, name), "artifact"
        else:
            found[name], chosen_by[name] = _DEFAULTS[name], "default"
    return Ordering(**found, chosen_by=chosen_by)


def _contradicts(recommended: Order, settings: Settings) -> bool:
    return recommended.policy == "fcfs" and settings.max_overtake is not None


_DEFAULTS: Final[dict[str, Any]] = {"policy": "quantile", "max_overtake_s": 120.0, "lane_share": 0.0}


def endless_waits(settings: Settings) -> list[str]:
    """A line for whatever of the settings lets a request wait for as long as others come."""
    lines = [
        f"{where} sjf has no bound: a long answer waits for as long as shorter ones come"
        for where, policy in _policies(settings)
        if policy == "sjf"
    ]
    first = min((one.tier for one in settings.classes), default=0)
    lines += [
        f"class '{one.name}' has min_share 0: it waits for as long as a better tier has requests"
        for one in settings.classes
        if one.min_share == 0 and one.tier > first
    ]
    return lines


def _policies(settings: Settings) -> list[tuple[str, str | None]]:
    return [("policy", settings.policy), *((f"class '{one.name}':", one.policy) for one in settings.classes)]


def make_scheduler(settings: Settings, policy: Policy | None = None) -> Scheduler:
    """The scheduler that the settings describe; `policy` replaces the general one.

    Raises SettingsError where classes contradict each other.
    """
    try:
        return Scheduler(
            make_classes(settings, policy),
            lane_share=ordering(settings, None).lane_share,
            tenants=tenant_limits(settings.keys),
            limits=QueueLimits(
                max_waiting=settings.max_waiting,
                max_bytes=settings.max_waiting_bytes,
                max_tokens=settings.max_waiting_tokens,
                shed_worst=settings.shed_worst,
            ),
        )
    except ValueError as error:
        raise SettingsError(f"bad configuration: {error}") from error


def make_classes(
    settings: Settings, policy: Policy | None = None, recommended: Order | None = None
) -> tuple[ServiceClass, ...]:
    """The configured classes, or the default ones; raises SettingsError for a bad span of hours."""
    order = ordering(settings, recommended)
    general = policy or make_policy(order.policy, order.max_overtake_s)
    if not settings.classes:
        return default_classes(general)
    return tuple(_make_class(one, order, general) for one in settings.classes)


def _make_class(one: ClassSettings, order: Ordering, general: Policy) -> ServiceClass:
    own = one.policy is not None or one.max_overtake is not None
    bound = order.max_overtake_s if one.max_overtake is None else one.max_overtake
    min_share = (_MIN_SHARE if one.tier else 0.0) if one.min_share is None else one.min_share
    return ServiceClass(
        name=one.name,
        policy=make_policy(one.policy or order.policy, bound) if own else general,
        tier=one.tier,
        offset_us=round(one.offset_s * MICROSECONDS),
        ttl_us=None if one.ttl_s is None else round(one.ttl_s * MICROSECONDS),
        min_share=min_share,
        window_share=one.window_share,
        hours=tuple(_span(span) for span in one.hours),
    )


def _span(text: str) -> tuple[int, int]:
    """Minutes of the day of "22:00-06:00"."""
    begin, end = (int(part[:2]) * 60 + int(part[3:]) for part in text.split("-"))
    if begin == end or max(begin, end) > 24 * 60:
        raise SettingsError(f"bad configuration: hours {text!r} is no span of a day")
    return begin, end


def tenant_limits(keys: tuple[KeySettings, ...]) -> dict[str, TenantLimits]:
    """What the keys say of their tenants; of two keys of one tenant the later one counts."""
    return {key.tenant: TenantLimits(key.weight, key.max_running, key.max_waiting) for key in keys}


def make_identities(settings: Settings, classes: tuple[ServiceClass, ...]) -> Identities:
    """Who may ask, as the settings say; raises SettingsError where a key names no class."""
    try:
        return Identities(
            settings.keys,
            classes,
            default_class=settings.default_class,
            trust_headers=settings.trust_headers,
        )
    except ValueError as error:
        raise SettingsError(f"bad configuration: {error}") from error


def new_order(
    settings: Settings, classes: tuple[ServiceClass, ...], recommended: Order | None = None
) -> tuple[Identities, dict[str, Policy]]:
    """Identities and policies of new settings for the present classes.

    Raises SettingsError where those differ or contradict each other.
    """
    wanted = make_classes(settings, recommended=recommended)
    for old, new in zip(classes, wanted, strict=False):
        if msgspec.structs.replace(new, policy=old.policy) != old:
            raise SettingsError(
                f"class '{new.name}' changed in more than its policy: restart to take it over"
            )
    if len(wanted) != len(classes):
        raise SettingsError("classes came or went: restart to take them over")
    try:
        check_classes(wanted)
    except ValueError as error:
        raise SettingsError(f"bad configuration: {error}") from error
    return make_identities(settings, wanted), {one.name: one.policy for one in wanted}


def fallen_back(policies: Mapping[str, Policy]) -> dict[str, Policy]:
    """First come, first served in the place of every policy that goes by predictions."""
    return {
        name: policy if policy.name == "fcfs" else Fcfs(policy.overtake_bound_us or 0)
        for name, policy in policies.items()
    }
