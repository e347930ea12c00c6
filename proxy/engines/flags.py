"""The flags that an engine needs to keep our order and to report what we measure: one list for all who name them."""

from collections.abc import Mapping
from typing import Final, Literal

EngineName = Literal["vllm", "sglang"]
Flags = tuple[tuple[str, ...], ...]

# SGLang's belong together: with the first two alone it stops running requests for better ones, and those that can
# carry no priority starve. Tiers are sent as steps to both sides of its default, so that any will do.
ORDER: Final[Mapping[EngineName, Flags]] = {
    "vllm": (("--scheduling-policy", "priority"),),
    "sglang": (
        ("--enable-priority-scheduling",),
        ("--schedule-low-priority-values-first",),
        ("--disable-priority-preemption",),
        ("--retraction-policy", "priority"),
        ("--default-priority-value", "0"),
    ),
}
REPORTS: Final[Mapping[EngineName, Flags]] = {
    "vllm": (("--enable-prompt-tokens-details",), ("--enable-per-request-metrics",)),
    "sglang": (("--enable-cache-report",), ("--enable-metrics",)),
}
# As one writes them.
ORDER_LINE: Final[Mapping[str, str]] = {
    name: " ".join(word for flag in flags for word in flag) for name, flags in ORDER.items()
}
