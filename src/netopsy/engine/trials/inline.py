"""The executor that runs everything at once, where it is called."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from netopsy.engine.trials.payload import Held, Sent, Work


class Inline(Executor):
    """One trial at a time, in this process; an interrupt goes through to the caller."""

    width: int | None = 1
    shows_progress = True

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads

    def send(self, work: Work, context: Any) -> Sent:
        """Nothing is sent: the trial works on the context itself."""
        return Held(work, context)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def stop(self) -> None:
        """Nothing runs when nobody waits."""
