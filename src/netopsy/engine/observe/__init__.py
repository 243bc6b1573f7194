"""Observe, the first way to run a network: one pass over the samples, any number of tallies."""
