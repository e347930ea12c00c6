"""The scheduler: a pure, synchronous core. Time comes in as an argument; it does no I/O and reads no clock."""
