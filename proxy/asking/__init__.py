"""Self-prediction at work: asking the engine's model how long its answer will be, while the request waits."""
