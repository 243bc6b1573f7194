"""Receptive fields: the window of the input that each value of each node can see."""
