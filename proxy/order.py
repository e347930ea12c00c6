"""From settings to the scheduler: classes, tenants, limits, policies."""

from collections.abc import Mapping

import msgspec

from proxy.identity import Identities, KeySettings
from proxy.scheduling.classes import ServiceClass, default_classes
from proxy.scheduling.fair import TenantLimits
from proxy.scheduling.policy import MICROSECONDS, Fcfs, Policy, make_policy
from proxy.scheduling.scheduler import QueueLimits, Scheduler
from proxy.settings import ClassSettings, Settings, SettingsError

# Without a word of the operator a lower tier still gets this share of the dispatches.
_MIN_SHARE = 0.05


def make_scheduler(settings: Settings, policy: Policy | None = None) -> Scheduler:
    """The scheduler that the settings describe; `policy` replaces the general one.

    Raises SettingsError where classes contradict each other.
    """
    try:
        return Scheduler(
            make_classes(settings, policy),
            lane_share=settings.lane_share,
            tenants=_tenants(settings.keys),
            limits=QueueLimits(
                max_waiting=settings.max_waiting,
                max_bytes=settings.max_waiting_bytes,
                max_tokens=settings.max_waiting_tokens,
                shed_worst=settings.shed_worst,
            ),
        )
    except ValueError as error:
        raise SettingsError(f"bad configuration: {error}") from error


def make_classes(settings: Settings, policy: Policy | None = None) -> tuple[ServiceClass, ...]:
    """The configured classes, or the default ones; raises SettingsError for a bad span of hours."""
    general = policy or make_policy(settings.policy, settings.max_overtake)
    if not settings.classes:
        return default_classes(general)
    return tuple(_make_class(one, settings, general) for one in settings.classes)


def _make_class(one: ClassSettings, settings: Settings, general: Policy) -> ServiceClass:
    own = one.policy is not None or one.max_overtake is not None
    bound = settings.max_overtake if one.max_overtake is None else one.max_overtake
    min_share = (_MIN_SHARE if one.tier else 0.0) if one.min_share is None else one.min_share
    return ServiceClass(
        name=one.name,
        policy=make_policy(one.policy or settings.policy, bound) if own else general,
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


def _tenants(keys: tuple[KeySettings, ...]) -> dict[str, TenantLimits]:
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


def new_order(settings: Settings, classes: tuple[ServiceClass, ...]) -> tuple[Identities, dict[str, Policy]]:
    """Identities and policies of new settings for the present classes; SettingsError where those differ."""
    wanted = make_classes(settings)
    for old, new in zip(classes, wanted, strict=False):
        if msgspec.structs.replace(new, policy=old.policy) != old:
            raise SettingsError(
                f"class '{new.name}' changed in more than its policy: restart to take it over"
            )
    if len(wanted) != len(classes):
        raise SettingsError("classes came or went: restart to take them over")
    return make_identities(settings, wanted), {one.name: one.policy for one in wanted}


def fallen_back(policies: Mapping[str, Policy]) -> dict[str, Policy]:
    """First come, first served in the place of every policy that goes by predictions."""
    return {
        name: policy if policy.name == "fcfs" else Fcfs(policy.overtake_bound_us or 0)
        for name, policy in policies.items()
    }
