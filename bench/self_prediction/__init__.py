"""Which question to a model tells most of its answer's length, and at what cost: measured on a real engine."""
