"""From settings to spans: what makes them is an extra, imported only where it is asked for."""

from typing import TYPE_CHECKING

from proxy.clock import Clock
from proxy.settings import Settings, SettingsError

if TYPE_CHECKING:
    from proxy.spans import Spans


def make_spans(settings: Settings, clock: Clock) -> "Spans | None":
    """None where there are to be none. Raises SettingsError where they cannot be made."""
    if settings.otel_endpoint is None:
        return None
    try:
        from proxy.spans import Spans  # noqa: PLC0415 - an optional extra, and slow to import
    except ImportError as error:
        raise SettingsError(
            f"otel_endpoint needs more packages ({error}): pip install 'headway[otel]'"
        ) from error
    try:
        return Spans(settings.otel_endpoint, clock)
    except ValueError as error:
        raise SettingsError(f"otel_endpoint: an OTEL_* environment variable is wrong: {error}") from error
