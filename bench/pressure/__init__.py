"""The queue under pressure, on a real engine: saturation, a flood, an endless stream of short ones, overload."""
