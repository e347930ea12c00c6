"""From a request body to a named vector of numbers."""
