"""From one unit back to the image: rules, field-of-view trees, and the flow through them."""

from netopsy.engine.backward.contribution import Contribution, contributing
from netopsy.engine.backward.trace import Trace, backproject, trace

__all__ = ["Contribution", "Trace", "backproject", "contributing", "trace"]
