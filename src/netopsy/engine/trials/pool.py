"""Who runs the trials.

    with netopsy.workers(4):
        netopsy.triage(network, samples, train=train)     # four trials at a time, each in a process of its own

Without it trials run one after the other in the caller's process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from netopsy.engine.trials.payload import LocalPayload, Payload, Work
from netopsy.errors import MissingExtra, SettingsError
from netopsy.settings import Interval, PositiveInt, check_settings


@dataclass(frozen=True)
class WorkerSettings:
    """The settings of `workers`."""

    workers: PositiveInt | None = None
    cluster: Literal["ray"] | None = None
    address: str | None = None
    cpus: Annotated[float, Interval(gt=0, le=1_000_000)] = 1.0
    gpus: Annotated[float, Interval(ge=0, le=1_000_000)] = 0.0
    threads: PositiveInt | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        if self.cluster is not None and find_spec("ray") is None:
            raise MissingExtra("cluster ray", "cluster")
        if self.address is not None and self.cluster is None:
            raise SettingsError(f"address '{self.address}' is a cluster's: give cluster too, --cluster ray.")

    def start(self) -> Any:
        """The executor; its processes start with the first trial."""
        if self.cluster == "ray":
            from netopsy.engine.trials.ray import RayExecutor

            return RayExecutor(self.workers, self.address, cpus=self.cpus, gpus=self.gpus, threads=self.threads)
        if self.workers is None or self.workers == 1:
            return InlineExecutor(self.threads)
        from netopsy.engine.trials.processes import SpawnExecutor

        return SpawnExecutor(self.workers, gpus=self.gpus, threads=self.threads)


class WorkerPool:
    """Workers and, from the first trial on, their executor."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings, self._executor = settings, None

    @property
    def executor(self) -> Any:
        """The executor, started where it is not."""
        if self._executor is None:
            self._executor = self.settings.start()
        return self._executor

    @property
    def here(self) -> bool:
        """Whether trials run in the caller's process."""
        return self.settings.cluster is None and self.settings.workers in (None, 1)

    @property
    def width(self) -> int:
        """Trials at a time; a cluster is asked where it was not said."""
        return self.settings.workers or (1 if self.here else self.executor.room())

    def close(self, *, at_once: bool = False) -> None:
        """End the workers; `at_once`: with what they are at."""
        executor, self._executor = self._executor, None
        if executor is not None:
            if at_once:
                executor.stop()
            executor.shutdown()


class InlineExecutor(Executor):
    """One trial at a time, in this process; an interrupt goes through to the caller."""

    width: int | None = 1
    shows_progress = True

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads

    def send(self, work: Work, context: Any) -> Payload:
        """Nothing is sent: the trial works on the context itself."""
        return LocalPayload(work, context)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def stop(self) -> None:
        """Nothing runs when nobody waits."""


_current: ContextVar[WorkerPool | None] = ContextVar("workers", default=None)


def current_workers() -> WorkerPool:
    """The workers that surround the caller; by default one, in the caller's process."""
    return _current.get() or WorkerPool(WorkerSettings())


def workers(
    count: int | None = None,
    *,
    cluster: Literal["ray"] | None = None,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    threads: int | None = None,
) -> AbstractContextManager[WorkerPool]:
    """Run trials over `count` workers, inside `with`.

    count: trials at a time. None, or 1: in this process; on a cluster None is as many as it holds.
    cluster: None for processes of this machine, or `ray` (needs the extra `cluster`).
    address: of a Ray that runs already (HOST:PORT, or auto for the one of this machine); None starts one here, which
        listens on the loopback interface alone and ends with the block.
    cpus: cores that each trial takes on a cluster, fractions too. gpus: GPUs that each trial takes, fractions too.
    threads: of torch in each worker; None shares the cores among the workers.
    Workers start with the first trial, and serve all that follow in the block.
    Errors: SettingsError, and MissingExtra without Ray, at the call.
    """
    return _surround(WorkerPool(WorkerSettings(count, cluster, address, cpus, gpus, threads)))


@contextmanager
def _surround(pool: WorkerPool) -> Iterator[WorkerPool]:
    token = _current.set(pool)
    try:
        yield pool
    except BaseException:
        pool.close(at_once=True)
        raise
    finally:
        _current.reset(token)
        pool.close()
