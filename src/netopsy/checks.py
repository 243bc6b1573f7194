"""Checks that settings have in common: one of some words, a whole number, a number in a range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from netopsy.errors import SettingsError


def check_choice(settings: Any, name: str, allowed: Sequence[str]) -> None:
    """Raise SettingsError unless the setting `name` is one of `allowed`."""
    value = getattr(settings, name)
    if value not in allowed:
        raise SettingsError(f"{name} {value!r} is unknown; give one of {', '.join(allowed)}.")


def check_int(settings: Any, name: str, least: int) -> None:
    """Raise SettingsError unless the setting `name` is a whole number of at least `least`."""
    value = getattr(settings, name)
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise SettingsError(f"{name} {value!r} is out of range; give a whole number from {least}.")


def check_real(settings: Any, name: str, low: float, high: float, *, open_low: bool = False) -> None:
    """Raise SettingsError unless the setting `name` is a finite number from `low` (`open_low`: above) to `high`."""
    value = getattr(settings, name)
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high or (open_low and value == low):
        least = f"above {low:g}" if open_low else f"from {low:g}"
        most = "" if high == math.inf else f" to {high:g}"
        raise SettingsError(f"{name} {value!r} is out of range; give a number {least}{most}.")
