"""The scheduler: a pure, synchronous core that does no I/O and is told the time."""
