"""Reading a few gauges out of an engine's /metrics text without parsing all of it."""

import msgspec

from proxy.engines.adapter import Load


class GaugeNames(msgspec.Struct, frozen=True):
    """What an engine calls its running and waiting sequences and its KV usage in [0, 1].

    `whole`: the label of the series that count, where others show parts of them.
    """

    running: bytes
    waiting: bytes
    kv: bytes
    whole: bytes = b""


def read_load(metrics: bytes, names: GaugeNames) -> Load | None:
    """The sums over an engine's series (data-parallel ranks); None where they are not there or no numbers."""
    try:
        running, waiting, kv = (
            _series(metrics, name, names.whole) for name in (names.running, names.waiting, names.kv)
        )
        return (
            Load(int(sum(running)), int(sum(waiting)), max(kv, default=0.0)) if running and waiting else None
        )
    except (ValueError, OverflowError):
        return None


def _series(metrics: bytes, name: bytes, whole: bytes) -> list[float]:
    """The values of one gauge, with labels or without."""
    return [
        float(line.rsplit(b" ", 1)[-1])
        for line in metrics.split(b"\n")
        if line.startswith(name) and line[len(name) : len(name) + 1] in (b"{", b" ") and whole in line
    ]
