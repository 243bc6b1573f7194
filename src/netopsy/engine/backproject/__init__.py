"""Backproject, the third way to run a network: from one unit back to the image, under a rule."""

from netopsy.engine.backproject.backproject import Trace, backproject, trace

__all__ = ["Trace", "backproject", "trace"]
