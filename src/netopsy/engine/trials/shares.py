"""What each of several workers gets of a machine."""

from __future__ import annotations

import math
import os

import torch

from netopsy.errors import SettingsError


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
