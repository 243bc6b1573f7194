"""Worker processes of this machine."""

from __future__ import annotations

from typing import Any

from netopsy.engine.trials.inline import Inline


class Spawned(Inline):
    """To come."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
