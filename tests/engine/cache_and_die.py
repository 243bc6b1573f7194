"""Run by test_train_activations: stores values in the folder given, and is killed half way."""

from __future__ import annotations

import os
import signal
import sys

from test_train import noise, tiny

from netopsy import workspace
from netopsy.blocks.activation_cache import cache


def progress(label: str, done: int, total: int) -> None:
    """Kill this process, with no chance to tidy up, when half of the images are done."""
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    with workspace(progress=progress):
        cache(tiny(), noise(), ("relu", "max_pool2d"), sys.argv[1], flips=True)
