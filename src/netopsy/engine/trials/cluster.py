"""Trials on Ray."""

from __future__ import annotations

from typing import Any

from netopsy.engine.trials.inline import Inline


class RayExecutor(Inline):
    """To come."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
