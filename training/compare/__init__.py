"""Comparing orders on a live engine: the client, the arms, the report."""
