"""The first thing that a worker process does."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from typing import Any


def begin(leash: Any, folder: str, gpus: str | None) -> None:
    """Watch the leash, and see only the GPUs that are this worker's.

    leash: a pipe's end that is at its end when the driver is gone. folder: deleted then, as the driver cannot.
    gpus: value of CUDA_VISIBLE_DEVICES, or None to leave it.
    """
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus  # torch reads it when CUDA is first used
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends its workers
    threading.Thread(target=_watch, args=(leash, folder), daemon=True).start()


def _watch(leash: Any, folder: str) -> None:
    try:
        leash.recv_bytes()
    except (EOFError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)
