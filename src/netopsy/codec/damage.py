"""What is wrong with a stream, said by whoever reads it; the file's reader adds the path and what to do next."""

from __future__ import annotations

from netopsy.errors import WeightsError


class Damage(WeightsError):
    """A stream that no writer makes: the message is the reason alone."""
