"""The work function and its context on the way to the workers: once each, not once a trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from netopsy.engine.trials.record import Outcome

Work = Callable[[Any, dict[str, Any]], Outcome]


class Sent(Protocol):
    """Where a worker finds (work, context)."""

    def take(self) -> tuple[Work, Any]:
        """The two, read at the first call in a process and kept until another is taken."""


@dataclass(frozen=True)
class Held:
    """For trials in this process: nothing is sent."""

    work: Work
    context: Any

    def take(self) -> tuple[Work, Any]:
        return self.work, self.context
