"""Run by the tests of trials: a driver that is ended in the middle, by the signal given.

python trials_and_die.py FOLDER MARKS SIGNAL CLUSTER
"""

from __future__ import annotations

import os
import signal
import sys

from trial_work import calm

import netopsy
from netopsy.engine.trials.pool import workers
from netopsy.engine.trials.run import run_trials

SPECS = [{"x": x, "wait": 0.3} for x in range(6)] + [{"x": 6, "wait": 60}, {"x": 7, "wait": 60}]


def main() -> None:
    folder, marked, ending, cluster = sys.argv[1:]

    def progress(label: str, done: int, total: int) -> None:
        if done == 4:
            if ending == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            os.killpg(0, signal.SIGINT)

    with netopsy.workspace(folder, progress), workers(2, cluster=cluster or None, cpus=0.5):
        try:
            run_trials(calm, marked, SPECS, digest="marks")
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
