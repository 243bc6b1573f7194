"""Training (design: the fourth way to run a network)."""
