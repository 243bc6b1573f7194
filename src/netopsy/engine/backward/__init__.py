"""From one unit back to the image: rules, field-of-view trees, and the flow through them."""

from netopsy.engine.backward.trace import Trace, backproject, trace

__all__ = ["Trace", "backproject", "trace"]
