"""Sweep, the second way to run a network: the scores of many edited versions."""
