"""Trials on Ray: of this machine, started here and ended here, or of a cluster that runs already."""

from __future__ import annotations

import hashlib
import importlib
import logging
import math
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from netopsy.engine.trials.payload import Payload, Work, pickle_work, read_once, unpickle_work
from netopsy.engine.trials.processes import cores
from netopsy.engine.trials.trial import WorkerLost
from netopsy.errors import SettingsError

_LOOPBACK = "127.0.0.1"
PATIENCE = 5.0  # seconds in which a cluster must answer
# A Ray of one machine takes its address from the network card, and then any machine may have it run code, unless it is
# told that it will not be part of a cluster: then it takes the loopback interface.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class RayExecutor(Executor):
    """Each call is a Ray task that takes so many `cpus` and `gpus`; Ray itself repeats none.

    count: trials at a time, None for as many as the nodes hold. address: of a Ray that runs; None starts one here.
    A Ray that the process is connected to already is used and left as it is.
    Errors: SettingsError where no Ray answers at the address, or no node of it has what a trial takes.
    """

    shows_progress = False

    def __init__(
        self, count: int | None, address: str | None, *, cpus: float, gpus: float, threads: int | None = None
    ) -> None:
        self.width, self._cpus, self._gpus = count, cpus, gpus
        self.threads = threads or max(1, int(cpus))
        self._ray = _import_ray()
        self._own = not self._ray.is_initialized()
        if self._own and address is None:
            self._start()
        elif self._own:
            self._join(str(address))
        self._check()
        task = self._ray.remote(max_retries=0, num_cpus=cpus, num_gpus=gpus)
        self._call = task(_call)
        self._flying: dict[Future[Any], Any] = {}

    def _start(self) -> None:
        """Start a Ray of this machine alone."""
        count = cores() if self.width is None else math.ceil(self.width * self._cpus)
        gpus = torch.cuda.device_count() if self._gpus else 0
        try:
            with _alone():
                self._init(address="local", num_cpus=count, num_gpus=gpus, include_dashboard=False)
        except Exception as error:  # Ray raises a bare one where a process of its own does not start in time
            self._ray.shutdown()
            raise SettingsError(
                f"Ray did not start ({_first_line(error)}); leave out --cluster, or try again."
            ) from error
        node = self._ray.util.get_node_ip_address()
        if node != _LOOPBACK:
            self._ray.shutdown()
            raise SettingsError(
                f"Ray would listen on {node}, not on the loopback interface alone; start one as you want it with "
                "`ray start --head`, and give its address."
            )

    def _join(self, address: str) -> None:
        """Connect to a Ray that runs."""
        try:
            _knock(address)
            self._init(address=address)
        except (ConnectionError, RuntimeError, ValueError, OSError, AssertionError) as error:
            raise SettingsError(
                f"no Ray of this version answers at '{address}' ({_first_line(error)}); start one with "
                "`ray start --head`."
            ) from error

    def _init(self, **how: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._ray.init(namespace="netopsy", logging_level=logging.CRITICAL, log_to_driver=False, **how)
        worker: Any = importlib.import_module("ray._private.worker")
        worker._worker_logs_enabled = False  # else it prints of each lost worker what our records say

    def _check(self) -> None:
        """SettingsError where no node could ever run a trial: it would wait for ever."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(n.get("CPU", 0) >= self._cpus and n.get("GPU", 0) >= self._gpus for n in nodes):
            return
        most = {kind: max((n.get(kind, 0) for n in nodes), default=0) for kind in ("CPU", "GPU")}
        self.shutdown()
        raise SettingsError(
            f"a trial takes {self._cpus:g} CPUs and {self._gpus:g} GPUs, and the largest node of this Ray has "
            f"{most['CPU']:g} and {most['GPU']:g}; give smaller --trial-cpus and --trial-gpus."
        )

    def room(self) -> int:
        """Trials that all nodes together hold; at least 1."""
        shares = {"CPU": self._cpus, "GPU": self._gpus}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        each = [min(int(n.get(kind, 0) / share) for kind, share in shares.items() if share) for n in nodes]
        return max(1, sum(each))

    def send(self, work: Work, context: Any) -> Payload:
        """Put the two into Ray's object store, from which each worker reads once."""
        body, buffers = pickle_work(work, context)
        key = hashlib.sha256(body)
        for buffer in buffers:
            key.update(buffer)
        parts = [body, *map(bytes, buffers)]
        return RayPayload(self._ray.put(parts), key.hexdigest(), tuple(sys.path))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call `fn` in a Ray task; WorkerLost where its worker dies, or its node."""
        ref = self._call.remote(fn, args, kwargs)
        answer: Future[Any] = Future()
        self._flying[answer] = ref

        def finish(inner: Future[Any]) -> None:
            self._flying.pop(answer, None)
            error = inner.exception()
            if error is None:
                answer.set_result(inner.result())
            else:
                answer.set_exception(self._translate(error))

        ref.future().add_done_callback(finish)
        return answer

    def _translate(self, error: BaseException) -> BaseException:
        """Ray's exception as one of ours."""
        exceptions = self._ray.exceptions
        if isinstance(error, exceptions.OutOfMemoryError):
            return WorkerLost(
                "Ray killed the trial: its node's memory was nearly used up; try fewer at a time.", "memory"
            )
        if isinstance(error, exceptions.WorkerCrashedError):
            return WorkerLost(
                "the worker process died or was killed. The system kills so when its memory is used up; try fewer "
                "workers."
            )
        if isinstance(error, exceptions.NodeDiedError | exceptions.LocalRayletDiedError | exceptions.ObjectLostError):
            return WorkerLost("the node that ran the trial was lost.")
        if isinstance(error, exceptions.RayTaskError) and isinstance(error.cause, Exception):
            return error.cause
        first_line = (str(error).strip().splitlines() or [""])[0]
        return SettingsError(
            f"Ray cannot run a trial: {type(error).__name__}: {first_line} Every node needs this version of netopsy."
        )

    def stop(self) -> None:
        """End all trials with what they are at."""
        for ref in list(self._flying.values()):
            self._ray.cancel(ref, force=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._own and self._ray.is_initialized():
            self._ray.shutdown()


@dataclass(frozen=True)
class RayPayload:
    """In Ray's object store; key: SHA-256 of it. paths: where the driver imports from."""

    ref: Any
    key: str
    paths: tuple[str, ...]

    def take(self) -> tuple[Work, Any]:
        return read_once(self.key, self._read)

    def _read(self) -> tuple[Work, Any]:
        sys.path += [path for path in self.paths if path not in sys.path and os.path.isdir(path)]
        body, *buffers = importlib.import_module("ray").get(self.ref)
        return unpickle_work(body, [bytearray(buffer) for buffer in buffers])  # arrays that may be written to

    def close(self) -> None:
        """Ray lets go of it with the last reference."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _knock(address: str) -> None:
    """OSError at once where nothing listens at HOST:PORT: Ray itself goes on asking for many minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()


def _call(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return fn(*args, **kwargs)


def _import_ray() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    return importlib.import_module("ray")


@contextmanager
def _alone() -> Iterator[None]:
    """Have Ray take the loopback interface as its network."""
    constants: Any = importlib.import_module("ray._private.ray_constants")  # it has read the environment already
    before, cluster = os.environ.get(_ALONE), getattr(constants, "ENABLE_RAY_CLUSTER", True)
    os.environ[_ALONE], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = cluster
        del os.environ[_ALONE]
        if before is not None:
            os.environ[_ALONE] = before
