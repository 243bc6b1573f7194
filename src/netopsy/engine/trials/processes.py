"""Worker processes of this machine, each in a pool of its own.

A pool of several processes fails as a whole when one of them dies, and does not say which trial did it. Of pools of
one process only that one fails, and the others go on.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch

from netopsy.engine.trials.payload import FilePayload, Payload, Work
from netopsy.engine.trials.trial import WorkerLost
from netopsy.errors import SettingsError

PATIENCE = 2.0  # seconds to wait for the exit code of a process that is gone

_starting = threading.Lock()


def start_worker(driver_pipe: Any, folder: str, gpus: str | None) -> None:
    """Watch the pipe to the driver, and see only the GPUs that are this worker's.

    driver_pipe: a pipe's end that is at its end when the driver is gone. folder: deleted then, as the driver cannot.
    gpus: value of CUDA_VISIBLE_DEVICES, or None to leave it.
    """
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus  # torch reads it when CUDA is first used
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends its workers
    threading.Thread(target=_watch, args=(driver_pipe, folder), daemon=True).start()


def _watch(driver_pipe: Any, folder: str) -> None:
    try:
        driver_pipe.recv_bytes()
    except (EOFError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_share(workers: int) -> int:
    """torch threads of each of so many workers; no more than OMP_NUM_THREADS says."""
    share = max(1, cores() // workers)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdigit() and int(limit) else share


def gpu_shares(workers: int, each: float) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each worker: `each` GPUs of its own, or a part of one; None leaves it as it is.

    Errors: SettingsError where the machine has fewer.
    """
    if not each:
        return [None] * workers
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = (
        list(map(str, range(torch.cuda.device_count()))) if named is None else list(filter(None, named.split(",")))
    )
    together, size = max(1, int(1 / each)), math.ceil(each)  # workers that share GPUs, and how many they share
    if math.ceil(workers / together) * size > len(devices):
        raise SettingsError(
            f"{workers} workers of {each:g} GPUs each are more than the {len(devices)} here; give fewer workers, or a "
            "smaller part of a GPU to each."
        )
    first = [worker // together * size for worker in range(workers)]
    return [",".join(devices[at : at + size]) for at in first]


class SpawnExecutor(Executor):
    """`count` processes, 1 or more; each starts with its first trial, and again after a trial that it did not survive.

    A process ends at once when the driver ends, however that comes about: it holds one end of a pipe whose
    other end the driver alone has.
    """

    shows_progress = False

    def __init__(self, count: int, *, gpus: float = 0.0, threads: int | None = None) -> None:
        self.width = count
        self.threads = threads or thread_share(count)
        shares = gpu_shares(count, gpus)
        self.folder = Path(tempfile.mkdtemp(prefix="netopsy-workers-"))
        driver_pipe, self._hand = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._slots = [WorkerProcess((driver_pipe, os.fspath(self.folder), share)) for share in shares]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for slot in self._slots:
            self._idle.put(slot)
        self._callers = ThreadPoolExecutor(self.width, thread_name_prefix="netopsy-trial")
        self._numbers = itertools.count()

    def send(self, work: Work, context: Any) -> Payload:
        """Write the two to a file that each worker reads once."""
        return FilePayload.write(self.folder / f"{next(self._numbers)}", work, context)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call `fn` in the next idle process; WorkerLost where it dies of it."""
        return self._callers.submit(self._call, fn, args, kwargs)

    def _call(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        slot = self._idle.get()
        try:
            return slot.call(fn, args, kwargs)
        finally:
            self._idle.put(slot)

    def stop(self) -> None:
        """End all processes with what they are at."""
        self._callers.shutdown(wait=False, cancel_futures=True)
        self._hand.close()
        for slot in self._slots:
            slot.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._callers.shutdown(wait, cancel_futures=cancel_futures)
        for slot in self._slots:
            slot.end(wait)
        self._hand.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class WorkerProcess:
    """One process, or the place of one. how: the arguments of `start_worker`."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.how = arguments
        self._pool: ProcessPoolExecutor | None = None
        self._process: Any = None

    def call(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._pool is None:
            self._start()
        assert self._pool is not None
        try:
            return self._pool.submit(fn, *args, **kwargs).result()
        except BrokenProcessPool:
            self._pool = None
            raise WorkerLost(describe_end(self._process)) from None

    def _start(self) -> None:
        with _starting, _no_script(), _no_interrupts():
            pool = ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker, initargs=self.how
            )
            first = pool.submit(os.getpid)  # starts the process
        try:
            pid = first.result()
        except BrokenProcessPool:
            raise SettingsError("a worker process could not start; leave out --workers, or workers(...).") from None
        self._process = next((child for child in multiprocessing.active_children() if child.pid == pid), None)
        self._pool = pool

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def end(self, wait: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait)
            self._pool = None


def describe_end(process: Any) -> str:
    """How a process that is gone has ended, as a sentence."""
    patience = time.monotonic() + PATIENCE
    code = None
    while process is not None and (code := process.exitcode) is None and time.monotonic() < patience:
        time.sleep(0.01)  # the pool's own thread may be the one that learns of it
    if code is None:
        return "the worker process died."
    if code >= 0:
        return f"the worker process ended with exit code {code}."
    name = signal.Signals(-code).name
    memory = " The system kills so when its memory is used up; try fewer workers." if name == "SIGKILL" else ""
    return f"the worker process was killed by {name}.{memory}"


@contextlib.contextmanager
def _no_script() -> Iterator[None]:
    """Have a process that starts meanwhile not run the user's script again: what it defines is sent as a whole."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Have a process that starts meanwhile never see an interrupt: the driver ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else it starts with the process, and unblocks what is blocked here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
