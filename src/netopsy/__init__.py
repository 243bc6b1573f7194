"""Netopsy: the autopsy of trained deep networks."""
