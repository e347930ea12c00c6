"""The replay held against a live engine: the same requests at the same times, on the engine and in virtual time."""
