"""Work for the tests of trials: functions that a worker process can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

import netopsy
from netopsy.engine.trials.pool import current_workers
from netopsy.engine.trials.trial import Outcome
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import DivergedError, SettingsError


def calm(context: Any, spec: dict[str, Any]) -> Outcome:
    """Double a number, leaving a mark of every attempt in the folder `context`."""
    (Path(context) / f"{spec['x']}-{os.getpid()}-{time.time_ns()}").touch()
    time.sleep(spec.get("wait", 0))
    return Outcome({"twice": 2 * spec["x"], "pid": os.getpid()})


def marks(folder: Path, x: int | None = None) -> int:
    """How many attempts `calm` and `wild` have made in all, or at one number."""
    return len([path for path in folder.iterdir() if x is None or path.name.startswith(f"{x}-")])


def wild(context: Any, spec: dict[str, Any]) -> Outcome:
    """As `calm`, after what `spec["then"]` says."""
    first = not marks(Path(context), spec["x"])
    then = spec.get("then")
    done = calm(context, spec)
    if then == "refuse":
        raise SettingsError("three is too many.")
    if then == "diverge":
        raise DivergedError("the loss is NaN.")
    if then == "fill":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    if then == "fill once" and first:
        raise MemoryError
    if then == "bug":
        return 1 / 0  # type: ignore[return-value]
    if then == "die" or (then == "die once" and first):
        os.kill(os.getpid(), signal.SIGKILL)
    return done


def meet(context: Any, spec: dict[str, Any]) -> Outcome:
    """As `calm`, but not done before another trial is at work too, for half a minute at most."""
    done, end = calm(context, spec), time.monotonic() + 30
    while marks(Path(context)) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    return Outcome({**done.values, "met": marks(Path(context)) >= 2})


def where(context: Any, spec: dict[str, Any]) -> Outcome:
    """The trial's own folder, in which it leaves a file, and its threads."""
    place = current_workspace()
    if place.folder is not None:
        (place.folder / "state").write_text("x")
    place.report("inside", 1, 2)
    return Outcome(
        {
            "folder": str(place.folder),
            "threads": torch.get_num_threads(),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "nested": type(current_workers().executor).__name__,
        }
    )


class Counted:
    """Leaves a mark whenever it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        (self.folder / f"read-{os.getpid()}-{time.time_ns()}").touch()


def of_counted(context: Counted, spec: dict[str, Any]) -> Outcome:
    return Outcome({"folder": str(context.folder)})


def scores(context: Any, spec: dict[str, Any]) -> Outcome:
    """The scores of a network on one of several sets of samples, and its weights."""
    network, samples = context["network"], context["samples"][spec["at"]]
    row = netopsy.score(network, samples).to_dicts()[0]
    return Outcome({"row": row, "digest": samples.digest, "layers": len(network.layers)}, network.tensors)


def diverging(context: Any, spec: dict[str, Any]) -> Outcome:
    """A training with a rate far too high."""
    network, samples = context
    netopsy.fit(network, samples, netopsy.Recipe(epochs=1, learning_rate=1e30))
    return Outcome({})
