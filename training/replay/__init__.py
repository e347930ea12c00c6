"""Replay: recorded traffic through the proxy's own scheduler and a model of the engine, in virtual time."""
