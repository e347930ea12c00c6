"""`headway doctor`: what an engine honours, shown by asking it, with the flag to add where it does not."""
