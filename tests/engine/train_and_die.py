"""Run by test_train_resume: trains in the workspace given, and is killed in the middle of an epoch."""

from __future__ import annotations

import os
import signal
import sys

from test_train_resume import RECIPE, everything

from netopsy import workspace
from netopsy.engine.train.fit import fit


def progress(label: str, done: int, total: int) -> None:
    """Kill this process, with no chance to tidy up, when half of the steps are done."""
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    network, samples, further = everything()
    with workspace(sys.argv[1], progress):
        fit(network, samples, RECIPE, **further)
